"""What is seen of PPO while it runs: a live line on a terminal, log lines without one; and where a step's time goes.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.progress import Progress

from cai_ray.metrics import training_keys as keys
from cai_ray.progress.board import terminal_bar
from cai_ray.progress.stage import LOG_EVERY_S

logger = logging.getLogger(__name__)


class Phases:
    """Where one step's time goes: `seconds` spent in each named phase; phases do not overlap."""

    def __init__(self) -> None:
        self.seconds: defaultdict[keys.Phase, float] = defaultdict(float)
        self._began = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    @contextmanager
    def __call__(self, phase: keys.Phase) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - began


class PpoProgress:
    """Shows one line per step."""

    def __init__(self, stage: str, num_steps: int) -> None:
        self._stage, self._num_steps = stage, num_steps
        self._logged = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = terminal_bar()
            self._bar = self._progress.add_task(stage, total=num_steps, speed="starting learners and engines")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, step: int, measured: Mapping[str, float]) -> None:
        line = (
            f"score {measured[keys.SCORE]:.3f}, KL {measured[keys.KL]:.2f}, length {measured[keys.LENGTH]:.0f}, "
            f"{measured[keys.EPISODES_PER_S]:,.1f} episodes/s"
        )
        if self._progress:
            self._progress.update(self._bar, completed=step, speed=line)
        elif time.monotonic() - self._logged > LOG_EVERY_S or step == self._num_steps:
            self._logged = time.monotonic()
            logger.info("%s: step %d/%d, %s", self._stage, step, self._num_steps, line)
