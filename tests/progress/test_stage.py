from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cai_ray.artifacts.parts import FileRecord, PartRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.progress import line
from cai_ray.progress.stage import StageProgress


def part(num_rows: int) -> PartRecord:
    file = FileRecord(name="part-x.parquet", num_rows=num_rows, size_bytes=1, sha256="")
    return PartRecord(name="x", rows=file, dropped=None, dropped_by_reason={}, counters={"num_output_tokens": 50})


def test_without_a_terminal_there_are_log_lines_and_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Storage(str(tmp_path))
    caplog.set_level(logging.INFO)
    for attempt in (1, 2):
        with StageProgress(folder, "revise", attempt, 30, 10 * (attempt - 1)) as progress:
            progress.add(part(4))
            progress.add(part(6))
    assert "revise: 10 of 30 rows are done already" in caplog.text
    assert "revise: 20/30 rows" in caplog.text
    assert "rows/s" in caplog.text
    assert "tokens/s" in caplog.text
    lines = [json.loads(text) for text in folder.read("metrics.jsonl").decode().splitlines()]
    assert [(each["attempt"], each["rows_out"], each["num_output_tokens"]) for each in lines] == [
        (1, 10, 100),
        (2, 10, 100),
    ]


def test_the_last_line_comes_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "LOG_EVERY_S", -1.0)
    caplog.set_level(logging.INFO)
    with StageProgress(Storage(str(tmp_path)), "revise", 1, 10, 0) as progress:
        progress.add(part(4))
        progress.add(part(6))
    assert [record.getMessage().split(" rows")[0] for record in caplog.records] == ["revise: 4/10", "revise: 10/10"]
