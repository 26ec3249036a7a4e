from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cai_ray.artifacts.parts import FileRecord, PartRecord
from cai_ray.artifacts.storage import Storage
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
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    assert [(line["attempt"], line["rows_out"], line["num_output_tokens"]) for line in lines] == [
        (1, 10, 100),
        (2, 10, 100),
    ]
