"""Progress and metrics of a stage's rows: its line, and metrics.jsonl."""

from __future__ import annotations

import logging
import time
from collections import Counter
from types import TracebackType
from typing import Self

from cai_ray.artifacts.counters import MICRODOLLARS, OUTPUT_TOKENS, PROMPT_TOKENS
from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.parts import PartRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import StorageAway, causes
from cai_ray.progress.exported import Exported
from cai_ray.progress.line import LiveLine

logger = logging.getLogger(__name__)
METRICS_EVERY_S = 5.0


class StageProgress(LiveLine):
    """Counts parts as they commit. `num_total` rows are to be accounted for, `num_done` of them already are.

    `most_tokens`: that may be spent from here on; None: any number.
    `name`: what of the stage this is, where it is done in several pieces; such a piece has a line of its own.
    """

    def __init__(
        self,
        folder: Storage,
        stage: str,
        attempt: int,
        num_total: int,
        num_done: int,
        *,
        name: str = "",
        most_tokens: int | None = None,
    ) -> None:
        super().__init__(f"{stage} ({name})" if name else stage, "starting the engine", num_total, num_done)
        self._is_piece = bool(name)
        self._num_total, self._num_before = num_total, num_done
        self._num_rows = 0
        self._num_dropped = 0
        self._counters: Counter[str] = Counter()
        self._most_tokens = most_tokens
        self._started = self._measured = time.monotonic()
        self._metrics = MetricsFile(folder, attempt, time.time())
        self._exported = Exported.of(folder, stage)

    def __enter__(self) -> Self:
        if self._num_before and not self._progress:
            logger.info("%s: %d of %d rows are done already", self.stage, self._num_before, self._num_total)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._num_rows or self._num_dropped:
            self._measure()
            self._show(is_last=True)
        if error is not None and any(isinstance(cause, StorageAway) for cause in causes(error)):
            self._metrics.presume_away()  # a worker has waited its minute; this process need not wait another
        self._metrics.close()
        if self._is_piece:
            self.change(visible=False)  # its stage's line has the sum
        super().__exit__(kind, error, trace)

    def add(self, part: PartRecord) -> None:
        """Count one committed part."""
        self._num_rows += part.num_rows
        self._num_dropped += part.num_dropped
        self._counters.update(part.counters)
        self._exported.count(part)
        self._show()
        if time.monotonic() - self._measured > METRICS_EVERY_S:
            self._measure()

    def _show(self, is_last: bool = False) -> None:
        elapsed_s = max(time.monotonic() - self._started, 1e-9)
        num_new = self._num_rows + self._num_dropped
        num_done = self._num_before + num_new
        left = self._num_total - num_done
        speed = f"{num_new / elapsed_s:,.1f} rows/s, {self._counters[OUTPUT_TOKENS] / elapsed_s:,.0f} tokens/s"
        if self._counters[MICRODOLLARS]:
            speed += f", ${self._counters[MICRODOLLARS] / 1e6:,.2f}"
        if self._most_tokens is not None:
            num_tokens = self._counters[PROMPT_TOKENS] + self._counters[OUTPUT_TOKENS]
            speed += f", {num_tokens:,} of {self._most_tokens:,} tokens"
        if self._num_dropped:
            speed += f", {self._num_dropped} dropped"
        eta = f"{left * elapsed_s / num_new:,.0f} s left" if num_new and left > 0 else "done"
        self.show(num_done, self._num_total, speed, f"{num_done}/{self._num_total} rows, {speed}, {eta}", is_last)

    def _measure(self) -> None:
        self._measured = time.monotonic()
        self._metrics.write(rows_out=self._num_rows, rows_dropped=self._num_dropped, **self._counters)
