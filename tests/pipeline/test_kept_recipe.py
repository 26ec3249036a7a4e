"""`recipe.json` says what made what lies there, stage by stage. Case 09 from the field among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cai_ray.artifacts.artifact import OpenStage, open_stage
from cai_ray.cli import app
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.kept_recipe import keep
from cai_ray.pipeline.recipe import Recipe, load
from cai_ray.pipeline.steps import select, steps
from cai_ray.row_ids import RowIds
from tests.small_recipes import SERVER, fields, recipe

OTHER = {"endpoint": {**SERVER["endpoint"], "timeout_s": 7}}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    models = {"policy": SERVER, "labeller": SERVER}
    return {
        **fields(tmp_path),
        "models": models,
        "sft": None,
        "pairs": {"model": "policy"},
        "labels": {"model": "labeller"},
    }


def make(made: Recipe, *stages: str) -> None:
    """Begin these stages and finish them, as far as `recipe.json` is concerned."""
    context = pipeline.prepare(made, steps(made))
    keep(made, context, [step for step in steps(made) if step.stage in stages])
    for stage in stages:
        [step] = select(steps(made), only=stage)
        opened = open_stage(context.spec(stage, step.config, RowIds(("id",))))
        assert isinstance(opened, OpenStage)
        opened.commit(pa.array([], pa.string()))


def kept(made: Recipe) -> dict[str, Any]:
    return json.loads(pipeline.folder_of(made).read("recipe.json"))


def test_a_first_run_keeps_the_whole_recipe_and_it_loads_again(data: dict[str, Any]) -> None:
    made = recipe(data)
    make(made, "load_prompts")
    assert kept(made) == made.model_dump(mode="json")
    path = Path(pipeline.folder_of(made).path("recipe.json"))
    assert load(path) == made.model_copy(update={"folder": str(path.parent)})


def test_a_section_changes_with_its_stage(data: dict[str, Any]) -> None:
    make(recipe(data), "load_prompts", "revise")
    other = recipe(
        data,
        revise={"num_revisions": 1, "scaling": {"max_engines": 3}},
        pairs={"model": "policy", "samples_per_prompt": 3},
    )
    make(other, "sample_pairs")
    assert kept(other)["revise"]["num_revisions"] == 4, "it lies there, made with 4"
    assert kept(other)["revise"]["scaling"]["max_engines"] == 1
    assert kept(other)["pairs"]["samples_per_prompt"] == 3
    pipeline.folder_of(other).delete_folder("revise")
    make(other, "revise")
    assert kept(other)["revise"]["num_revisions"] == 1


def test_models_and_constitution_change_with_who_uses_them(data: dict[str, Any]) -> None:
    make(recipe(data), "load_prompts", "revise", "sample_pairs")
    other = recipe(data, constitution="harmlessness", models={"policy": OTHER, "labeller": OTHER, "third": OTHER})
    make(other, "label_comparisons")
    assert kept(other)["constitution"] == "harmlessness"
    assert kept(other)["models"]["labeller"]["endpoint"]["timeout_s"] == 7
    assert kept(other)["models"]["policy"]["endpoint"]["timeout_s"] == 120, "what made revise"
    assert kept(other)["models"]["third"]["endpoint"]["timeout_s"] == 7


def test_the_labeller_may_be_the_policy(data: dict[str, Any]) -> None:
    make(recipe(data), "load_prompts", "revise")
    make(recipe(data, models={"policy": OTHER}, labels={}), "label_comparisons")
    assert kept(recipe(data))["models"]["policy"]["endpoint"]["timeout_s"] == 7


def test_a_stage_of_an_earlier_recipe_keeps_its_section(data: dict[str, Any]) -> None:
    make(recipe(data), "load_prompts", "revise", "sample_pairs")
    without = recipe(data, pairs=None, labels=None, expand={})
    make(without, "expand_prompts")
    assert kept(without)["pairs"] == recipe(data).model_dump(mode="json")["pairs"]
    assert kept(without)["labels"] is None


@pytest.mark.parametrize("damaged", [b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_one_is_written_anew(data: dict[str, Any], damaged: bytes) -> None:
    made = recipe(data)
    make(made, "load_prompts")
    pipeline.folder_of(made).write("recipe.json", damaged)
    make(made, "revise")
    assert kept(made) == made.model_dump(mode="json")


def test_case_09_neither_a_refused_run_nor_one_with_nothing_to_do_changes_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(fields(tmp_path)))
    runner, command = CliRunner(), ["run", str(path), "--until", "load_prompts"]
    assert runner.invoke(app, command).exit_code == 0
    file = tmp_path / "runs" / "test" / "recipe.json"
    before = file.read_bytes()
    again = runner.invoke(app, [*command, "--set", "revise.num_revisions=1"])
    assert (again.exit_code, "Nothing to do" in again.output) == (0, True)
    assert file.read_bytes() == before
    for refused in (["--set", "seed=3"], ["--limit", "1", "--set", "revise.num_revisions=2"]):
        assert runner.invoke(app, [*command, *refused]).exit_code == 2
        assert file.read_bytes() == before
    fresh = [*command, "--fresh", "--set", "revise.num_revisions=1"]
    assert runner.invoke(app, fresh).exit_code == 0
    assert json.loads(file.read_bytes())["revise"]["num_revisions"] == 1, "no revise lies there: nothing contradicts"
