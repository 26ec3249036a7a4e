"""What the callback adds to training, without a worker: a checkpoint when a node is taken back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cai_ray.artifacts.metrics_file import MetricsFile, parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.training.watch import watch_of
from cai_ray.engines.training.worker_group import Place

pytestmark = pytest.mark.slow  # transformers


def test_one_checkpoint_is_saved_when_a_node_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train

    notices = iter([None, None, "node 7", "node 7", "node 7"])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices))
    folder = Storage(str(tmp_path))
    metrics = MetricsFile(folder, 1, 0.0)
    unused = cast(Any, None)
    watch = watch_of(unused, unused, Place(0, 1, 0, 1), unused, tmp_path, metrics)
    saves = []
    for step in range(5):
        control = SimpleNamespace(should_save=False)
        watch.on_step_end(unused, SimpleNamespace(global_step=step), control)
        saves.append(control.should_save)
    assert saves == [False, False, True, False, False]
    [event] = [entry for entry in parse_metrics(read_metrics(folder)) if "event" in entry]
    assert event["step"] == 2 and "taken back" in event["event"]
