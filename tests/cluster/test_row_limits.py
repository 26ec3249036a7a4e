"""A conversation past its time limit, on real Ray with a scripted engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.dropped import DropReason
from tests import faults
from tests.runs import check_adds_up, engine, requests, run, saying, write_jsonl, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def test_a_row_past_its_time_limit_is_dropped_and_the_others_complete(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.use_script(monkeypatch, faults.asleep_when_told)
    path = write_jsonl(tmp_path / "prompts.jsonl", [saying(f"Show me {faults.HANGS}."), *requests(31)])
    recipe = write_recipe(tmp_path, micro_model, path, models=engine(row_time_limit_s=4.0))
    run(recipe)
    artifact = check_adds_up(recipe)
    assert artifact.manifest.rows_out == 31
    [dropped] = artifact.dropped()
    assert dropped["reason"] == DropReason.TIMEOUT
    assert "row_time_limit_s=4" in dropped["detail"]
    assert artifact.manifest.counters["engine_starts"] == 1
