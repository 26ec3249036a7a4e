"""The house keeps its floors: imports go down, wings keep apart, no circles, nothing heavy at import, small rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cai_ray"
HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "trl", "datasets", "sklearn", "scipy"}
# From the ground up. A module is on the floor of the first part of its name.
FLOORS = (
    {
        "",
        "rows",
        "row_ids",
        "dropped",
        "config",
        "chat",
        "markup",
        "seeding",
        "fingerprint",
        "errors",
        "exits",
        "constitution",
        "lookup",
        "shelf",
        "stopping",
    },
    {"prompts", "quality", "algorithms", "metrics", "prompt_layouts"},
    {"artifacts"},
    {"progress"},
    {"engines"},
    {"stages", "microworld"},
    {"serving"},
    {"pipeline"},
    {"planning"},
    {"submission", "publishing", "doctor"},
    {"commands"},
    {"cli"},
)
# Inside engines/, from the ground up. Folders of one line never import each other, so rollouts and learners meet only
# in what both know of weights.
ENGINES = (
    {"address", "shared_folder", "execution", "peers"},
    {"cluster", "placement", "models", "weights"},
    {"groups"},
    {"conversations"},
    {"backends"},
    {"training"},
    {"rollouts", "learners"},
)
# May import heavy packages at module level, because nothing imports them before they are needed: both are parts of
# the micro model, which only a stage that builds it loads.
LOADED_LATE = {"microworld.pretrain", "microworld.tokenizer"}
MOST_FILES, MOST_LINES = 16, 350


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """Everything imported; inside functions and under TYPE_CHECKING too."""
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def inner_imports(name: str) -> set[str]:
    """The modules of the package that `name` imports; a package only for what its own __init__ holds."""
    own = {m.removeprefix("cai_ray").removeprefix(".") for m in imports(MODULES[name]) if m.startswith("cai_ray")}
    found = {module for module in own if module in MODULES} - {name}
    return {m for m in found if not any(other.startswith(f"{m}.") for other in found)} - {""}


def level(part: str, floors: tuple[set[str], ...]) -> int:
    for number, names in enumerate(floors):
        if part in names:
            return number
    raise AssertionError(f"{part!r} is on no floor: give it one in tests/test_floors.py")


def wing(name: str) -> tuple[str, str] | None:
    """(engines or stages, the folder below it) of a module inside one."""
    parts = name.split(".")
    return (parts[0], parts[1]) if parts[0] in ("engines", "stages") and len(parts) > 1 else None


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_never_up(name: str) -> None:
    floor = level(name.split(".")[0], FLOORS)
    for imported in inner_imports(name):
        other = level(imported.split(".")[0], FLOORS)
        assert other <= floor, f"cai_ray.{name} (floor {floor}) imports cai_ray.{imported} above it"


def test_engines_import_down() -> None:
    for name in MODULES:
        mine = wing(name)
        for imported in inner_imports(name):
            other = wing(imported)
            if mine and other and mine[0] == other[0] == "engines" and mine != other:
                assert level(other[1], ENGINES) < level(mine[1], ENGINES), f"cai_ray.{name} imports cai_ray.{imported}"


def test_stages_meet_only_on_disk() -> None:
    """A wing of stages/ imports the files at the root of stages/, and nothing of another wing."""
    wings = {path.name for path in (PACKAGE / "stages").iterdir() if path.is_dir()}
    for name in MODULES:
        mine = wing(name)
        if mine and mine[0] == "stages":
            for imported in inner_imports(name):
                other = wing(imported)
                if other and other[0] == "stages" and other[1] in wings:
                    assert other[1] == mine[1], f"cai_ray.{name} imports cai_ray.{imported} of another wing"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_heavy_is_imported_at_the_top(name: str) -> None:
    if name not in LOADED_LATE:
        heavy = {module.split(".")[0] for module in imports(MODULES[name], top_level_only=True)} & HEAVY
        assert not heavy, f"cai_ray.{name} imports {heavy} at its top; import inside the function that needs it"


def test_engines_do_not_know_what_they_are_used_for() -> None:
    for name, tree in MODULES.items():
        if name.startswith("engines"):
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            guilty = {n for n in names if "constitution" in n.lower() or "preference" in n.lower()}
            assert not guilty, f"cai_ray.{name}: {guilty}"


def test_no_circle_of_imports() -> None:
    """Counting every import, those inside functions and under TYPE_CHECKING included."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for imported in inner_imports(name):
                visit(imported, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_rooms_stay_small() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        files = sorted(folder.glob("*.py"))
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} holds {len(files)} Python files"
        for path in files:
            lines = len(path.read_text().splitlines())
            assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def rooms() -> Iterator[tuple[str, Path]]:
    for name in MODULES:
        path = PACKAGE / (name.replace(".", "/") + ".py")
        if path.is_file():
            yield name, path.relative_to(PACKAGE)


@pytest.mark.parametrize(("name", "path"), list(rooms()), ids=lambda value: str(value))
def test_a_reader_finds_its_tests(name: str, path: Path) -> None:
    """The same path and name under tests/, or a line of the file's docstring names a test that is there."""
    if (ROOT / "tests" / path.parent / f"test_{path.name}").is_file():
        return
    words = (ast.get_docstring(MODULES[name]) or "").replace(",", " ").split()
    named = [word.strip("().;:`") for word in words if word.startswith(("tests/", "`tests/", "(tests/"))]
    named = [word.removesuffix(".") for word in named if "tests/" in word]
    assert named, f"cai_ray/{path} has no tests/{path.parent}/test_{path.name} and its docstring names no test"
    for word in named:
        assert (ROOT / word).exists(), f"cai_ray/{path} names {word}, which is not there"


def test_no_drawer_for_odds_and_ends() -> None:
    banned = {"utils", "util", "helpers", "common", "manager", "misc"}
    assert not [path for path in PACKAGE.rglob("*.py") if path.stem in banned]


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys; from cai_ray.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)\n"
        "import cai_ray.pipeline.run\n"
        "assert not {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
