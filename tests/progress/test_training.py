"""A training's line, followed from the driver."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.storage import Storage
from cai_ray.progress.training import TrainingProgress


def test_the_driver_follows_what_a_worker_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Storage(str(tmp_path))
    folder.write("metrics.jsonl", json.dumps({"event": "of an earlier attempt", "step": 1}).encode() + b"\n")
    with caplog.at_level(logging.INFO), TrainingProgress(folder, "train_x"):
        metrics = MetricsFile(folder, 2, time.time())
        metrics.event("resumed from the checkpoint of step 4", step=4)
        metrics.write(step=8, num_steps=8, loss=None, examples_per_s=9.0)
        metrics.write(step=8, num_steps=8, loss=0.25, examples_per_s=9.0)
        metrics.write(step=8, eval_loss=0.5)
        metrics.close()
    told = [record.message for record in caplog.records]
    assert told == [
        "train_x: resumed from the checkpoint of step 4",
        "train_x: step 8/8, loss 0.2500, 9.0 examples/s",
        "train_x: step 8, eval loss 0.5000",
    ]
