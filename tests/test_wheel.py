"""The wheel: built, installed into an empty folder, and used from another empty one, as after `pip install`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # 10 s


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(ROOT), "--no-build-isolation", "-w", str(folder))
    (built,) = folder.glob("cai_ray-*.whl")
    return built


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cai_ray alone; what it needs is in this interpreter's own site-packages."""
    folder = tmp_path_factory.mktemp("target")
    pip("install", str(wheel), "--target", str(folder))
    return folder


def pip(command: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--no-deps", "--no-index", "-q", *arguments],
        check=True,
        capture_output=True,
        timeout=300,
    )


def used(target: Path, folder: Path, *command: str) -> str:
    """What a command says, run in `folder` with the wheel's cai_ray, which comes before an editable install."""
    environment = {**os.environ, "PYTHONPATH": str(target), "CAI_RAY_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name.removeprefix("cai_ray/") for name in names}
    recipes = ROOT / "jobs" / "recipes"
    assert {f"_recipes/{path.relative_to(recipes)}" for path in recipes.rglob("*.yaml")} <= inside
    assert {f"_constitutions/{path.name}" for path in (ROOT / "constitutions").glob("*.yaml")} <= inside
    package = ROOT / "cai_ray"
    own = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    assert {str(path) for path in own if "__pycache__" not in path.parts} <= inside, "modules, pages and weights"
    assert {"LICENSE", "NOTICE"} <= {name.rsplit("/", 1)[-1] for name in names if "dist-info/licenses/" in name}


def test_it_works_from_an_empty_folder(target: Path, tmp_path: Path) -> None:
    where = used(target, tmp_path, "-c", "import cai_ray; print(cai_ray.__file__)").strip()
    assert where == str(target / "cai_ray" / "__init__.py")
    command = str(target / "bin" / "cai-ray")
    assert "recipes" in used(target, tmp_path, command, "--help")
    assert "quickstart" in used(target, tmp_path, command, "recipes")
    assert "harmlessness: ok" in used(target, tmp_path, command, "constitution", "check", "harmlessness")
    planned = json.loads(used(target, tmp_path, command, "plan", "quickstart", "--json"))
    assert "revise" in [stage["planned"]["stage"] for stage in planned["stages"]]
    built = Path(used(target, tmp_path, command, "microworld", "build").strip())
    assert (built / "model.safetensors").stat().st_size > 4_000_000, "seed 0 comes along; a build would take minutes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"], "nothing else was written"
