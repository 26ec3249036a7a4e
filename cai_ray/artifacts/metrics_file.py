"""metrics.jsonl: one line per logged step, over all attempts of a stage.

Tested in tests/engines/training/test_launcher.py.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

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
