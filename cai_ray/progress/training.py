"""metrics.jsonl of a training stage: written by the first worker, followed by the driver."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Any, Self

from cai_ray.artifacts.metrics_file import METRICS, UPLOAD_EVERY_S, parse_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.metrics import training_keys as keys
from cai_ray.progress.line import LiveLine

logger = logging.getLogger(__name__)
FOLLOW_EVERY_S = 0.5


class TrainingProgress(LiveLine):
    """Follows metrics.jsonl from the driver: steps are its line, events and evaluations are always logged."""

    def __init__(self, folder: Storage, stage: str) -> None:
        super().__init__(stage, "starting the workers")
        self._folder = folder
        self._num_bytes = 0  # of the file, followed so far
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._num_bytes = self._folder.size_bytes(METRICS) or 0
        self._thread.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        super().__exit__(kind, error, trace)

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
            logger.warning("%s: %s", self.stage, entry[keys.EVENT])
        elif entry.get(keys.EVAL_LOSS) is not None:
            logger.info("%s: step %d, eval loss %.4f", self.stage, entry[keys.STEP], entry[keys.EVAL_LOSS])
        elif entry.get(keys.LOSS) is not None:
            speed = f"loss {entry[keys.LOSS]:.4f}, {entry[keys.EXAMPLES_PER_S]:,.1f} examples/s"
            self.show_step(entry[keys.STEP], entry[keys.NUM_STEPS], speed)
