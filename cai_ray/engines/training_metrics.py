"""metrics.jsonl of a training stage: written by the first worker, followed by the driver."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.progress import Progress

from cai_ray.engines.storage import Storage
from cai_ray.engines.tracking import terminal_bar

logger = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
UPLOAD_EVERY_S = 5.0
FOLLOW_EVERY_S = 0.5
LOG_EVERY_S = 10.0
# What is said of the model, and not of how fast it was evaluated.
_MODEL_VALUE = re.compile(r"loss|eval_(?!runtime|.*_per_second).*")


class MetricsFile:
    """Appends one JSON line per step, evaluation or event; each has `attempt` and `elapsed_s` (since the driver began).

    On a storage that cannot append, the file is written again every few seconds.
    """

    def __init__(self, folder: Storage, attempt: int, started_at: float) -> None:
        self._folder, self._attempt, self._started_at = folder, attempt, started_at
        self._text = read_metrics(folder)
        if self._text and not self._text.endswith("\n"):
            self._text += "\n"  # a line cut short by a killed worker
        self._uploaded = 0.0
        self._stream = None
        if folder.is_local:
            folder.write(METRICS, self._text.encode())
            self._stream = open(folder.path(METRICS), "a", encoding="utf-8")  # noqa: SIM115, for as long as training

    def write(self, **values: Any) -> None:
        elapsed_s = round(time.time() - self._started_at, 3)
        line = json.dumps({"attempt": self._attempt, "elapsed_s": elapsed_s, **values}) + "\n"
        self._text += line
        if self._stream is not None:
            self._stream.write(line)
            self._stream.flush()
        elif time.monotonic() - self._uploaded > UPLOAD_EVERY_S:
            self.flush()

    def event(self, message: str, **values: Any) -> None:
        self.write(event=message, **values)

    def flush(self) -> None:
        """Everything written is in the storage from here on."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
        else:
            self._folder.write(METRICS, self._text.encode())
            self._uploaded = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._stream is not None:
            self._stream.close()

    def last_values(self, step: int) -> dict[str, float]:
        """The loss of `step` and the newest evaluation up to it."""
        found: dict[str, float] = {}
        for entry in parse_metrics(self._text):
            if entry.get("step", step + 1) > step:
                continue
            for name, value in entry.items():
                if _MODEL_VALUE.fullmatch(name) and isinstance(value, int | float):
                    found[name] = float(value)
        return found


def read_metrics(folder: Storage) -> str:
    return folder.read(METRICS).decode(errors="replace") if folder.exists(METRICS) else ""


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """The lines that are whole; a killed worker may leave one that is not."""
    found = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def next_attempt(folder: Storage) -> int:
    """The number of the attempt that begins now, >= 1."""
    return 1 + max((int(entry.get("attempt", 0)) for entry in parse_metrics(read_metrics(folder))), default=0)


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
        if "event" in entry:
            logger.warning("%s: %s", self._stage, entry["event"])
        elif entry.get("eval_loss") is not None:
            logger.info("%s: step %d, eval loss %.4f", self._stage, entry["step"], entry["eval_loss"])
        elif entry.get("loss") is not None:
            self._show_step(entry)

    def _show_step(self, entry: dict[str, Any]) -> None:
        step, num_steps = entry["step"], entry["num_steps"]
        speed = f"loss {entry['loss']:.4f}, {entry['examples_per_s']:,.1f} examples/s"
        if self._progress:
            self._progress.update(self._bar, completed=step, total=num_steps, speed=speed)
        elif time.monotonic() - self._logged > LOG_EVERY_S or step == num_steps:
            self._logged = time.monotonic()
            logger.info("%s: step %d/%d, %s", self._stage, step, num_steps, speed)
