"""A run that commit 1fc51c6 finished is still finished.

`tests/fixtures/run_of_1fc51c6`: the run's manifests, summaries, rows and `recipe.json`, without what was large; made
with `cai-ray run recipe.yaml`. Beside it the micro model's folder, named as in the cache, without its weights: a
fingerprint knows them by name and size.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import Recipe, load
from cai_ray.pipeline.steps import steps

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_of_1fc51c6"
MICRO_MODEL = "40874a34d8179a24"
WEIGHTS_BYTES = 4_320_808
# An export says which attempt it is of, which it did not then: it is written anew, once.
MADE_ANEW = "exports"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    shutil.copytree(FIXTURE / "run", tmp_path / "runs" / "run_of_1fc51c6")
    model = tmp_path / MICRO_MODEL
    shutil.copytree(FIXTURE / MICRO_MODEL, model)
    (model / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))
    return load(FIXTURE / "recipe.yaml", [f"output={tmp_path / 'runs'}", f"models.policy.path={model}"])


def files(recipe: Recipe) -> dict[str, bytes]:
    run = Path(recipe.output) / recipe.name
    found = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(MADE_ANEW)}


def test_every_stage_was_finished_and_not_a_byte_changes(recipe: Recipe) -> None:
    before = files(recipe)
    for _ in range(2):
        outcomes = pipeline.run(recipe, steps(recipe))
        assert [outcome.stage for outcome in outcomes] == [step.stage for step in steps(recipe)]
        assert all(outcome.was_finished for outcome in outcomes)
        assert files(recipe) == before


def test_other_settings_and_other_weights_are_refused_as_they_were(recipe: Recipe) -> None:
    before = files(recipe)
    other = recipe.model_copy(update={"revise": recipe.revise.model_copy(update={"num_revisions": 1})})
    with pytest.raises(ConfigError, match="num_revisions: 2 -> 1"):
        pipeline.run(other, steps(other))
    (Path(recipe.models["policy"].path) / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="a model's files"):
        pipeline.run(recipe, steps(recipe))
    assert files(recipe) == before
