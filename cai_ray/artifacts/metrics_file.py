"""metrics.jsonl: one line per logged step or few seconds, over all attempts of a stage."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any, TextIO

from cai_ray.artifacts.persistence import presume_away
from cai_ray.artifacts.storage import Storage

METRICS = "metrics.jsonl"
UPLOAD_EVERY_S = 5.0
# What is said of the model, and not of how fast it was evaluated.
_MODEL_VALUE = re.compile(r"loss|eval_(?!runtime|.*_per_second).*")


class MetricsFile:
    """Appends one JSON line per step, evaluation or event; each has `attempt` and `elapsed_s` (since the driver began).

    On a storage that cannot append, the file is written again every few seconds.
    """

    def __init__(self, folder: Storage, attempt: int, started_at: float) -> None:
        self._folder, self._attempt, self._started_at = folder, attempt, started_at
        self._text = _whole_lines(read_metrics(folder))
        self._uploaded = 0.0
        self._stream: TextIO | None = None  # from the first line on

    def write(self, **values: Any) -> None:
        elapsed_s = round(time.time() - self._started_at, 3)
        line = json.dumps({"attempt": self._attempt, "elapsed_s": elapsed_s, **values}) + "\n"
        self._text += line
        if self._folder.is_local:
            self._append(line)
        elif time.monotonic() - self._uploaded > UPLOAD_EVERY_S:
            self.flush()

    def _append(self, line: str) -> None:
        if self._stream is None:
            earlier = read_metrics(self._folder)  # others may write, too: pieces of a stage that are done at once
            self._stream = open(self._folder.path(METRICS), "a", encoding="utf-8")  # noqa: SIM115, until `close`
            line = _whole_lines(earlier)[len(earlier) :] + line
        self._stream.write(line)
        self._stream.flush()

    def event(self, message: str, **values: Any) -> None:
        self.write(event=message, **values)

    def flush(self) -> None:
        """Everything written is in the storage from here on."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
        elif not self._folder.is_local:
            self._folder.write(METRICS, self._text.encode())
            self._uploaded = time.monotonic()

    def presume_away(self) -> None:
        """The storage has been waited for elsewhere, and given up."""
        presume_away(self._folder.shown)

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


def _whole_lines(text: str) -> str:
    """A line that a killed worker cut short is ended, so that the next one is whole."""
    return text if not text or text.endswith("\n") else text + "\n"


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


def elapsed_before(folder: Storage) -> float:
    """Seconds that all attempts but the newest worked, from the last time each wrote."""
    latest = elapsed_of(folder)
    return sum(seconds for attempt, seconds in latest.items() if attempt != max(latest))


def elapsed_of(folder: Storage) -> dict[int, float]:
    """Attempt -> seconds that it worked, from the last time that it wrote."""
    entries = [entry for entry in parse_metrics(read_metrics(folder)) if {"attempt", "elapsed_s"} <= entry.keys()]
    return {int(entry["attempt"]): float(entry["elapsed_s"]) for entry in entries}
