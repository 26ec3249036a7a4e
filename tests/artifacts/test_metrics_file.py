"""metrics.jsonl over several attempts, with lines that a killed writer left."""

from __future__ import annotations

import time
from pathlib import Path

from cai_ray.artifacts.metrics_file import MetricsFile, elapsed_before, next_attempt, parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage


def test_lines_are_appended_and_attempts_counted(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    assert next_attempt(folder) == 1
    for attempt in (1, 2):
        metrics = MetricsFile(folder, attempt, time.time())
        metrics.write(step=attempt, loss=1.0 / attempt)
        metrics.close()
    assert next_attempt(folder) == 3
    assert [entry["step"] for entry in parse_metrics(read_metrics(folder))] == [1, 2]


def test_a_line_cut_short_is_left_behind(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    folder.write("metrics.jsonl", b'{"attempt": 1, "step": 1}\n{"attempt": 1, "st')
    metrics = MetricsFile(folder, 2, time.time())
    metrics.write(step=2)
    metrics.close()
    assert [entry["step"] for entry in parse_metrics(read_metrics(folder))] == [1, 2]


def test_the_values_of_the_saved_step(tmp_path: Path) -> None:
    metrics = MetricsFile(Storage(str(tmp_path)), 1, time.time())
    for step in (1, 2, 3):
        metrics.write(step=step, loss=float(step))
        metrics.write(step=step, eval_loss=step + 0.5, eval_accuracy=None, eval_runtime=1.0)
    assert metrics.last_values(2) == {"loss": 2.0, "eval_loss": 2.5}


def test_two_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    one, other = MetricsFile(folder, 1, time.time()), MetricsFile(folder, 1, time.time())
    for step in (1, 2):
        one.write(step=step)
        other.write(step=step)
    assert [entry["step"] for entry in parse_metrics(read_metrics(folder))] == [1, 1, 2, 2]


def test_time_of_earlier_attempts(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    assert elapsed_before(folder) == 0
    for attempt, seconds in ((1, 5), (1, 100), (2, 30), (3, 7)):
        metrics = MetricsFile(folder, attempt, time.time() - seconds)
        metrics.write(step=1)
        metrics.close()
    assert 130 <= elapsed_before(folder) < 131
