"""A study's file, the runs it is made of, and what they would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cai_ray import shelf
from cai_ray.errors import ConfigError
from cai_ray.pipeline.steps import steps
from cai_ray.pipeline.studies.study import Study, cells_of, load_study
from cai_ray.planning.devices import hardware
from cai_ray.planning.studies import plan_study, table_of

SMALL: dict[str, Any] = {
    "name": "s",
    "models": {"one": {"path": "microworld"}, "two": {"path": "microworld:refusing"}},
    "prompts": {"num_prompts": 12, "harmless_kind": "helpful"},
    "self_critique": {"formats": ["plain"]},
}


def study(folder: Path, **changes: Any) -> Study:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "output": str(folder / "runs"), **changes}))
    return load_study(file)


def test_cells_are_runs_and_the_forms_name_what_the_direction_makes(tmp_path: Path) -> None:
    cells = cells_of(study(tmp_path), "two")
    assert [cell.form for cell in cells] == ["as_is", "direction", "ablated", "reverse"]
    assert [cell.recipe.name for cell in cells][:2] == ["s-two-as_is", "s-two-direction"]
    paths = [cell.recipe.models["policy"].path for cell in cells]
    assert paths[:2] == ["microworld:refusing"] * 2
    made = f"{tmp_path}/runs/s-two-direction/abliterate"
    assert paths[2:] == [f"{made}/model", f"{made}/reverse"]
    assert [[step.stage for step in steps(cell.recipe)] for cell in cells[:2]] == [
        ["load_prompts", "self_critique"],
        ["load_prompts", "abliterate"],
    ]


def test_a_study_of_models_as_they_are_looks_for_no_direction(tmp_path: Path) -> None:
    assert [cell.form for cell in cells_of(study(tmp_path, forms=["as_is"]), "one")] == ["as_is"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "models"),
        ({"models": {"a/b": {"path": "x"}}}, "names a folder"),
        ({"forms": ["upside_down"]}, "forms"),
        ({"self_critique": {"formats": ["rhymed"]}}, "formats"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, **changes)
    with pytest.raises(ConfigError, match="did you mean micro_study"):
        load_study("micro_studi")


@pytest.mark.parametrize("name", sorted(shelf.available("study")))
def test_every_study_that_comes_along_has_its_cells(name: str) -> None:
    loaded = load_study(name)
    for model in loaded.models:
        assert cells_of(loaded, model)


@pytest.mark.parametrize("name", sorted(shelf.available("study")))
def test_every_study_can_be_planned_on_one_gpu(name: str) -> None:
    loaded = load_study(name)
    plans = plan_study(loaded, hardware("1xH100"))
    assert len(plans) == sum(len(cells_of(loaded, model)) for model in loaded.models)
    assert all(one.seconds > 0 and one.rows > 0 and one.memory is not None and one.memory.fits for one in plans)
    assert table_of(plans, 2.5).row_count == len(plans) + 1
