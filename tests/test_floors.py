"""The house keeps its floors: words < pure < machines < stages < pipeline, no circles, nothing heavy at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cai_ray"
HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "trl", "datasets", "sklearn", "scipy"}
WORDS = {
    "__init__", "rows", "config", "constitution", "constitution_source", "paper_constitution", "chat", "seeding",
    "errors", "fingerprint",
}  # fmt: skip
PURE = {"prompts", "quality", "algorithms", "metrics", "prompt_layouts"}
MACHINES = {"engines"}
STAGES = {"stages", "microworld"}
TOP = {
    "recipe",
    "steps",
    "pipeline",
    "ablations",
    "cli",
    "exits",
    "preview",
    "model_names",
    "terminal_chat",
    "planning",
}
# May import heavy packages at module level, because nothing imports them before they are needed.
LOADED_LATE = {"microworld.pretrain", "microworld.tokenizer"}
# Parts of one stage, or what every stage is given: not stages of their own.
SHARED_BY_STAGES = {
    f"stages.{name}"
    for name in (
        "context", "scorers", "near_duplicates", "choose_new_prompts", "sft_examples", "sampled_responses",
        "training_pairs", "preference_rows", "preference_model_summary", "evaluation_scorers", "evaluation_games",
        "evaluation_judges", "evaluation_judging", "evaluation_verdicts", "evaluation_matches", "evaluation_failures",
        "ppo_config", "ppo_models", "ppo_machines", "ppo_prompts", "ppo_batch", "ppo_health", "ppo_progress",
        "ppo_rows", "ppo_snapshot", "ppo_training", "ppo_card", "ppo_summary", "ppo_pretraining", "ppo_judging",
        "ppo_refresh", "ppo_fresh_pairs", "ppo_relearning",
        "report_text", "report_source", "report_stages", "report_policies", "report_training", "report_preferences",
        "report_rounds", "report_charts", "report_drawings", "report_examples", "report_facts", "report_numbers",
        "report_render",
    )
}  # fmt: skip
# A part that knows its stage's config.
PARTS_OF_STAGES = {("stages.store_prompts", "stages.load_prompts"), ("stages.evaluate_summary", "stages.evaluate")}


def floor(module: str) -> int:
    head = module.split(".")[0] or "__init__"
    for level, names in enumerate((WORDS, PURE, MACHINES, STAGES, TOP)):
        if head in names:
            return level
    raise AssertionError(f"cai_ray.{module} is on no floor: give it one in tests/test_floors.py")


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(tree: ast.AST, top_level_only: bool) -> set[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def inner_imports(name: str, top_level_only: bool = False) -> set[str]:
    own = {m.removeprefix("cai_ray.") for m in imports(MODULES[name], top_level_only) if m.startswith("cai_ray.")}
    return {module for module in own if module in MODULES}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_never_up(name: str) -> None:
    for imported in inner_imports(name):
        assert floor(imported) <= floor(name), (
            f"cai_ray.{name} (floor {floor(name)}) imports cai_ray.{imported} above it"
        )


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


def test_stages_meet_only_on_disk() -> None:
    stages = {name for name in MODULES if name.startswith("stages.") and name not in SHARED_BY_STAGES}
    pairs = {(name, other) for name in stages for other in inner_imports(name) & stages}
    assert pairs <= PARTS_OF_STAGES, f"stages import stages: {pairs - PARTS_OF_STAGES}"


def test_no_circle_of_imports() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for imported in inner_imports(name, top_level_only=True) - {name}:
                visit(imported, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


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
