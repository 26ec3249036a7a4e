"""Progress and metrics of a stage: a live line on a terminal, log lines without one, metrics.jsonl always."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.progress import Progress

from cai_ray.artifacts.counters import OUTPUT_TOKENS
from cai_ray.artifacts.parts import PartRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.progress.board import terminal_bar

logger = logging.getLogger(__name__)
LOG_EVERY_S = 10.0
METRICS_EVERY_S = 5.0


class StageProgress:
    """Counts parts as they commit. `num_total` rows are to be accounted for, `num_done` of them already are.

    `name`: what of the stage this is, where it is done in several pieces; such a piece has a line of its own.
    """

    def __init__(
        self, folder: Storage, stage: str, attempt: int, num_total: int, num_done: int, *, name: str = ""
    ) -> None:
        self._folder, self._attempt, self._is_piece = folder, attempt, bool(name)
        self._stage = f"{stage} ({name})" if name else stage
        self._num_total, self._num_before = num_total, num_done
        self._num_rows = 0
        self._num_dropped = 0
        self._counters: Counter[str] = Counter()
        self._started = time.monotonic()
        self._first_part: float | None = None
        self._logged = self._started
        self._measured = self._started
        earlier = folder.read("metrics.jsonl").decode(errors="replace") if folder.exists("metrics.jsonl") else ""
        self._lines = [line for line in earlier.splitlines() if line]
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = terminal_bar()
            self._bar = self._progress.add_task(
                self._stage, total=num_total, completed=num_done, speed="starting the engine"
            )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        elif self._num_before:
            logger.info("%s: %d of %d rows are done already", self._stage, self._num_before, self._num_total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            if self._is_piece:
                self._progress.update(self._bar, visible=False)  # its stage's line has the sum
            self._progress.stop()
        if self._num_rows or self._num_dropped:
            self._write_metrics()
            if not self._progress:
                self._log()

    def add(self, part: PartRecord) -> None:
        """Count one committed part."""
        now = time.monotonic()
        self._first_part = self._first_part or now
        self._num_rows += part.num_rows
        self._num_dropped += part.num_dropped
        self._counters.update(part.counters)
        if self._progress:
            self._progress.update(self._bar, advance=part.num_rows + part.num_dropped, speed=self._speed())
        elif now - self._logged > LOG_EVERY_S and self._num_done < self._num_total:  # the last line comes at the exit
            self._logged = now
            self._log()
        if now - self._measured > METRICS_EVERY_S:
            self._measured = now
            self._write_metrics()

    @property
    def _num_done(self) -> int:
        return self._num_before + self._num_rows + self._num_dropped

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def _speed(self) -> str:
        elapsed = max(self._elapsed_s, 1e-9)
        rows = (self._num_rows + self._num_dropped) / elapsed
        tokens = self._counters[OUTPUT_TOKENS] / elapsed
        return f"{rows:,.1f} rows/s, {tokens:,.0f} tokens/s" + (
            f", {self._num_dropped} dropped" if self._num_dropped else ""
        )

    def _log(self) -> None:
        rate = (self._num_rows + self._num_dropped) / max(self._elapsed_s, 1e-9)
        left = self._num_total - self._num_done
        eta = f"{left / rate:,.0f} s left" if rate and left > 0 else "done"
        logger.info("%s: %d/%d rows, %s, %s", self._stage, self._num_done, self._num_total, self._speed(), eta)

    def _write_metrics(self) -> None:
        entry = {
            "attempt": self._attempt,
            "elapsed_s": round(self._elapsed_s, 3),
            "rows_out": self._num_rows,
            "rows_dropped": self._num_dropped,
            **self._counters,
        }
        self._lines.append(json.dumps(entry))
        self._folder.write("metrics.jsonl", ("\n".join(self._lines) + "\n").encode())
