"""metrics.jsonl of a training stage: written by the first worker, followed by the driver.

Tested in tests/engines/training/test_launcher.py.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.progress import Progress

from cai_ray.artifacts.metrics_file import METRICS, UPLOAD_EVERY_S, parse_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.metrics import training_keys as keys
from cai_ray.progress.board import terminal_bar

logger = logging.getLogger(__name__)
FOLLOW_EVERY_S = 0.5
LOG_EVERY_S = 10.0


class TrainingProgress:
    """Follows metrics.jsonl from the driver: a bar on a terminal, log lines without one, events always."""

    def __init__(self, folder: Storage, stage: str) -> None:
        self._folder, self._stage = folder, stage
        self._num_bytes = 0  # of the file, followed so far
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._logged = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = terminal_bar()
            self._bar = self._progress.add_task(stage, total=None, speed="starting the workers")

    def __enter__(self) -> Self:
        self._num_bytes = self._folder.size_bytes(METRICS) or 0
        if self._progress:
            self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self._progress:
            self._progress.stop()

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_EVERY_S if self._folder.is_local else UPLOAD_EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            if (self._folder.size_bytes(METRICS) or 0) <= self._num_bytes:
                return
            with self._folder.filesystem.open_input_file(self._folder.path(METRICS)) as stream:
                stream.seek(self._num_bytes)
                new: bytes = stream.read()
        except OSError as error:  # a storage that is away for a moment must not end the training it only reports
            logger.debug("metrics.jsonl: %s", error)
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._num_bytes += len(whole)
        for entry in parse_metrics(whole.decode(errors="replace")):
            self._show(entry)

    def _show(self, entry: dict[str, Any]) -> None:
        if keys.EVENT in entry:
            logger.warning("%s: %s", self._stage, entry[keys.EVENT])
        elif entry.get(keys.EVAL_LOSS) is not None:
            logger.info("%s: step %d, eval loss %.4f", self._stage, entry[keys.STEP], entry[keys.EVAL_LOSS])
        elif entry.get(keys.LOSS) is not None:
            self._show_step(entry)

    def _show_step(self, entry: dict[str, Any]) -> None:
        step, num_steps = entry[keys.STEP], entry[keys.NUM_STEPS]
        speed = f"loss {entry[keys.LOSS]:.4f}, {entry[keys.EXAMPLES_PER_S]:,.1f} examples/s"
        if self._progress:
            self._progress.update(self._bar, completed=step, total=num_steps, speed=speed)
        elif time.monotonic() - self._logged > LOG_EVERY_S or step == num_steps:
            self._logged = time.monotonic()
            logger.info("%s: step %d/%d, %s", self._stage, step, num_steps, speed)
