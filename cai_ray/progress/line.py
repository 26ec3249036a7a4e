"""One line about what goes on: a task of the terminal's bar, log lines where there is no terminal.

Tested in tests/progress/test_stage.py, tests/progress/test_training.py and tests/progress/test_board.py.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any, Self

from rich.progress import Progress

from cai_ray.progress.board import terminal, terminal_bar

logger = logging.getLogger(__name__)
LOG_EVERY_S = 10.0


class LiveLine:
    """A context. `stage` is the name of the line; `beginning` stands in it until there is something to show."""

    def __init__(self, stage: str, beginning: str, num_total: int | None = None, num_done: int = 0) -> None:
        self.stage = stage
        self._logged = time.monotonic()
        self._progress: Progress | None = None
        if terminal.file.isatty():
            self._progress = terminal_bar()
            self._bar = self._progress.add_task(stage, total=num_total, completed=num_done, speed=beginning)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, num_done: int, num_total: int, speed: str, line: str, is_last: bool = False) -> None:
        """`speed` stands beside the bar; `line` is for the log, where it comes now and then, and `is_last` always."""
        if self._progress:
            self._progress.update(self._bar, completed=num_done, total=num_total, speed=speed)
        elif is_last or (num_done < num_total and time.monotonic() - self._logged > LOG_EVERY_S):
            self._logged = time.monotonic()
            logger.info("%s: %s", self.stage, line)

    def show_step(self, step: int, num_steps: int, speed: str) -> None:
        """Of what goes step by step."""
        self.show(step, num_steps, speed, f"step {step}/{num_steps}, {speed}", is_last=step == num_steps)

    def change(self, **task: Any) -> None:
        """Anything else of the bar's task."""
        if self._progress:
            self._progress.update(self._bar, **task)
