"""What stages have spent, by their files; and when an allowance is used up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.artifacts.allowance import Allowance, Spent
from cai_ray.artifacts.artifact import OpenStage, open_stage
from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.spending import found_in, spent
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.row_ids import SHOT_IDS
from cai_ray.rows import ROW_ID
from tests.finished_stages import finished, spec_of

ROWS = pa.schema([pa.field(ROW_ID, pa.string(), nullable=False)])
COST = {"num_prompt_tokens": 100, "num_output_tokens": 20, "microdollars": 7}


def test_of_a_finished_stage_and_of_none(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    made = finished(spec_of(run / "a", "a", SHOT_IDS), ROWS, [{ROW_ID: "x"}], counters=COST)
    assert spent(run / "a") == Spent(120, 7, made.manifest.duration_s)
    assert spent(run / "nothing") == Spent()


def test_of_a_begun_stage_over_all_attempts(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path)) / "a"
    opened = open_stage(spec_of(folder, "a", SHOT_IDS))
    assert isinstance(opened, OpenStage)
    for number in range(2):
        rows = pa.table({ROW_ID: [str(number)]}, ROWS)
        write_part(folder, rows, DROPPED.empty_table(), [str(number)], COST)
        metrics = MetricsFile(folder, number + 1, time.time() - 10)
        metrics.write(rows_out=1)
        metrics.close()
    found = spent(folder)
    assert (found.tokens, found.microdollars) == (240, 14)
    assert found.seconds == pytest.approx(20, abs=1)


def test_what_is_known_of_a_folder_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Storage(str(tmp_path)) / "a"
    finished(spec_of(folder, "a", SHOT_IDS), ROWS, [{ROW_ID: "x"}], counters=COST)
    read: list[str] = []
    ours = Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, name: read.append(name) or ours(self, name))
    found = found_in(folder)
    assert found.artifact is not None and found.artifact.manifest.rows_in == 1
    assert spent(folder, found) == spent(folder) and read == ["manifest.json"] * 2


def test_what_is_made_of_inner_artifacts_is_not_counted_twice(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    for name in ("judges/a", "judges/b"):
        finished(spec_of(run / "labels" / name, "labels", SHOT_IDS), ROWS, [{ROW_ID: "x"}], counters=COST)
    assert spent(run / "labels").tokens == 240
    both = {name: 2 * count for name, count in COST.items()}
    finished(spec_of(run / "labels", "labels", SHOT_IDS), ROWS, [{ROW_ID: "x"}], counters=both)
    assert spent(run / "labels").tokens == 240


def allowance(folder: Path, **of: Any) -> Allowance:
    fields = {"tokens": None, "microdollars": None, "until": None} | of
    limits = {kind: f"limits.{kind}=1" for kind in ("tokens", "dollars", "hours")}
    return Allowance(folder=Storage(str(folder)), before=Spent(), limits=limits, **fields)


def test_an_allowance_is_used_up_by_the_first_of_its_limits(tmp_path: Path) -> None:
    assert allowance(tmp_path).reached(Spent(10**9, 10**9)) is None
    tokens = allowance(tmp_path, tokens=100, microdollars=50)
    assert tokens.reached(Spent(99, 49)) is None
    assert "limits.tokens=1 is reached" in str(tokens.reached(Spent(100, 0)))
    assert "limits.dollars=1 is reached" in str(tokens.reached(Spent(0, 50)))
    assert "limits.hours=1 is reached" in str(allowance(tmp_path, until=time.time() - 1).reached(Spent()))
    assert tokens.less(Spent(40, 10)).reached(Spent(60, 0)) is not None
