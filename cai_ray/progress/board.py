"""The stages of a run on a terminal: one line each, waiting, running or finished. Nothing without a terminal.

The board is one rich Progress for the whole run. Whoever shows the progress of a stage asks `terminal_bar` (tracking)
for a bar and is given the board, so that two bars never fight for the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Also of the log lines: rich keeps a live view and the lines above it apart only where they share a console.
terminal = Console(stderr=True)
STYLES = {"waiting": "dim", "running": "bold", "finished": "green", "failed": "bold red"}
_open: Board | None = None


def duration(seconds: float) -> str:
    """ "42 s", "3:05", "2:03:05"."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _State(ProgressColumn):
    """Waiting, running, finished or failed."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"], style=STYLES[task.fields["state"]])


class _Amount(ProgressColumn):
    """Done of total, once the total is known."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.fields["state"] != "running":
            return Text("")
        return Text(f"{int(task.completed):,}/{int(task.total):,}", justify="right")


class _Time(ProgressColumn):
    """What is left of a running stage, what a finished one took."""

    def render(self, task: Task) -> Text:
        if task.fields["state"] == "running" and task.elapsed is not None:
            left = task.time_remaining
            return Text(duration(task.elapsed) if left is None else f"{duration(left)} left", style="cyan")
        return Text(task.fields["took"], justify="right")


class Board(Progress):
    """One line per stage."""

    def __init__(self, stages: Sequence[str], console: Console) -> None:
        super().__init__(
            _State(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Amount(),
            _Time(),
            TextColumn("{task.fields[speed]}"),
            console=console,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=console.file is sys.stderr,
            refresh_per_second=4,
        )
        self._lines = {stage: self._line(stage) for stage in stages}

    def _line(self, stage: str) -> TaskID:
        return super().add_task(stage, start=False, total=1, state="waiting", speed="", took="")

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        """The line of the stage `description`, begun anew: a stage may do several things one after the other."""
        line = self._lines.get(description)
        if line is None:
            line = self._lines[description] = self._line(description)
        self.reset(line, start=start, completed=completed, state="running", took="", **{"speed": "", **fields})
        with self._lock:
            self._tasks[line].total = total  # `reset` cannot set it to None, which means unknown
        return line

    def stop(self) -> None:
        """Nothing: whoever was given the board has finished a line of it, and `close` ends it."""

    def close(self) -> None:
        super().stop()

    def ended(self, stage: str, state: str, text: str, seconds: float | None) -> None:
        """A stage is "finished" or "failed"; `text` is the sum of it, `seconds` what it took."""
        took = "" if seconds is None else duration(seconds)
        full = int(state == "finished")
        self.update(self._lines[stage], total=1, completed=full, state=state, speed=text, took=took)
        self.stop_task(self._lines[stage])


def open_board() -> Board | None:
    """The board that is on the terminal now."""
    return _open


@contextmanager
def live_stages(stages: Sequence[str]) -> Iterator[Board | None]:
    """A board for these stages while the block runs; None without a terminal."""
    global _open
    if not terminal.is_terminal or _open is not None:
        yield None
        return
    _open = Board(stages, terminal)
    _open.start()
    try:
        yield _open
    finally:
        _open.close()
        _open = None


def terminal_bar() -> Progress:
    """A bar on standard error, or the board of all stages where there is one; its tasks have a field `speed`, any text.

    A task's description is the stage it belongs to.
    """
    return open_board() or Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=terminal,
        redirect_stderr=terminal.file is sys.stderr,
    )
