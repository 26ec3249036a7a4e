"""Dropped rows are a share of those that were tried: what the recipe leaves out ends no run and hides no drops."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import StageConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.errors import TooManyDropped
from cai_ray.pipeline.run import _check_dropped
from cai_ray.row_ids import PROMPT_IDS
from cai_ray.rows import PROMPT
from cai_ray.stages.inputs.sources import load
from cai_ray.stages.prompt_sources import Config
from cai_ray.stages.step import Step
from tests.field.load_prompts_runs import write_jsonl
from tests.finished_stages import finished, spec_of

STAGE = "stage"


def ended(folder: Path, num_out: int, num_dropped: int, num_left_out: int) -> Artifact:
    prompts = write_jsonl(folder / "p.jsonl", [{"prompt": f"Which soup suits day {k}?"} for k in range(num_out)])
    rows = [end.row for end in load(Config(path=str(prompts)), 0)]
    gone = {f"d{k}": DropRow(DropReason.TIMEOUT, "why") for k in range(num_dropped)}
    gone |= {f"l{k}": DropRow(LeftOutReason.LIMIT, "why") for k in range(num_left_out)}
    return finished(spec_of(folder / STAGE, STAGE, PROMPT_IDS), PROMPT, rows, dropped=gone)


def step_of(artifact: Artifact, leaves_unasked: bool) -> Step:
    return Step(STAGE, StageConfig(), lambda context: artifact, leaves_unasked=leaves_unasked)


def test_rows_that_were_never_tried_hide_no_drops(tmp_path: Path) -> None:
    artifact = ended(tmp_path, num_out=6, num_dropped=4, num_left_out=990)
    with pytest.raises(TooManyDropped, match=r"dropped 4 of 10 rows \(40\.0%"):
        _check_dropped(step_of(artifact, leaves_unasked=True), artifact)


def test_rows_that_were_read_and_left_out_count(tmp_path: Path) -> None:
    artifact = ended(tmp_path, num_out=6, num_dropped=4, num_left_out=30)
    _check_dropped(step_of(artifact, leaves_unasked=False), artifact)


def test_what_is_left_out_never_ends_a_run(tmp_path: Path) -> None:
    artifact = ended(tmp_path, num_out=1, num_dropped=0, num_left_out=999)
    for leaves_unasked in (True, False):
        _check_dropped(step_of(artifact, leaves_unasked), artifact)


def test_near_duplicates_are_left_out_because_the_recipe_asks_for_it(tmp_path: Path) -> None:
    texts = [f"Which of all the soups in the book suits a cold and rainy Monday{'!' * k}" for k in range(1, 30)]
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": text} for text in texts])
    ends = list(load(Config(path=str(path), near_duplicate_jaccard=0.8), 0))
    assert sum(end.drop is None for end in ends) == 1
    assert {str(end.drop.reason) for end in ends if end.drop} == {"similar"}
