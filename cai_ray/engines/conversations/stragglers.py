"""Rows that wait for a slow engine are asked again of idle ones, near the end of a stage.

There some engines have nothing left to do, and say so, with the longest time that a row of theirs took. A row that has
been with another engine for SLOW times as long is asked of them as well ("backup tasks": Dean and Ghemawat, MapReduce,
2004, section 3.6). The first end is the row's, and goes out with the task that the row came in: each row has one end
(G1), and its draws are the row's own wherever it is asked (G5). A row is asked again once (G6).

Only a slow engine gives rows away, one that has answered something since the row came: one that died or hangs is the
supervisor's business, and a row that breaks engines must not travel.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cai_ray.artifacts.counters import ASKED_AGAIN
from cai_ray.engines.conversations.ending import LEFT
from cai_ray.engines.peers import Peers
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.rows import ROW_ID

SLOW = 2.0
LEAST_S = 5.0  # a row that is younger is not asked again
IDLE_S = 2.0  # without a row before an engine says so: between two tasks it is no news
REMEMBERED = 256  # newest rows whose times count

Row = dict[str, Any]


@dataclass
class Held:
    """A row that is with this engine."""

    row: Row
    since: float  # monotonic
    task: asyncio.Task[Row]
    is_asked_again: bool = False
    end: Row | None = None  # that another engine gave it


class Stragglers:
    """One engine's side: the rows that it holds, those that it asks of others, and those that it is asked.

    `run`: a row to its end. `is_slow_with`: whether a row that came at this time waits for an engine that is well.
    """

    def __init__(
        self, peers: Peers, run: Callable[[Row], Awaitable[Row]], is_slow_with: Callable[[str, float], bool]
    ) -> None:
        self._peers, self._run, self._is_slow_with = peers, run, is_slow_with
        self._held: dict[str, Held] = {}
        self._has_asked = False
        self._helping: set[asyncio.Task[None]] = set()
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._idle_since: float | None = None
        self._is_called_idle = self._has_been_idle = False

    def begin(self, row: Row, task: asyncio.Task[Row]) -> None:
        held = self._held[row[ROW_ID]] = Held(row, time.monotonic(), task)
        task.add_done_callback(partial(self._note, held))

    def _note(self, held: Held, task: asyncio.Task[Row]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._took.append(time.monotonic() - held.since)

    def end(self, row_id: str, own: Row | BaseException) -> Row | BaseException:
        """The row's end: its own, or the one that came first from elsewhere."""
        held = self._held.pop(row_id, None)
        if held is None:
            return own  # came twice: Ray repeats a task whose end it did not hear of
        first = held.end if held.end is not None and isinstance(own, asyncio.CancelledError) else own
        if held.is_asked_again and not isinstance(first, BaseException):
            first["counters"].append((ASKED_AGAIN, 1))
        return first

    async def exchange(self) -> None:
        """Hear of the others and tell them; to be called about once a second."""
        await self._help()
        await self._say_whether_idle()
        if self._held:
            await self._ask_for_overdue()

    async def _help(self) -> None:
        for name, row in await asyncio.to_thread(self._peers.asked) if self._has_been_idle else ():
            task = asyncio.ensure_future(self._end_for(name, row))
            self._helping.add(task)
            task.add_done_callback(self._helping.discard)

    async def _end_for(self, name: str, row: Row) -> None:
        try:
            end = await self._run(row)
        except (EngineGaveUp, ConfigError):
            return  # the row is still where it came from
        if end.get(LEFT) is None:
            await asyncio.to_thread(self._peers.answer, name, row[ROW_ID], end)

    async def _say_whether_idle(self) -> None:
        if self._held or self._helping or not self._took:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        is_idle = self._idle_since is not None and time.monotonic() - self._idle_since >= IDLE_S
        if is_idle != self._is_called_idle:
            await asyncio.to_thread(self._peers.say_idle, max(self._took) if is_idle else None)
            self._is_called_idle = is_idle
            self._has_been_idle |= is_idle

    async def _ask_for_overdue(self) -> None:
        for row_id, end in (await asyncio.to_thread(self._peers.answers) if self._has_asked else {}).items():
            if (held := self._held.get(row_id)) is not None:
                held.end = end
                held.task.cancel()
        now = time.monotonic()
        old = {
            row_id: now - held.since
            for row_id, held in self._held.items()
            if now - held.since > LEAST_S
            and not held.task.done()
            and not held.is_asked_again
            and self._is_slow_with(row_id, held.since)
        }
        if not old:
            return
        for row_id, name in shared_out(old, await asyncio.to_thread(self._peers.idle)).items():
            if (held := self._held.get(row_id)) is not None:
                held.is_asked_again = self._has_asked = True
                await asyncio.to_thread(self._peers.ask, name, row_id, held.row)


def shared_out(ages: Mapping[str, float], idle: Mapping[str, float]) -> dict[str, str]:
    """Row -> the idle engine that it is asked of. `ages`: how long rows have been here, seconds; `idle`: see Peers.

    An idle engine that is itself slow gets none.
    """
    if not idle:
        return {}
    fast = min(idle.values())
    helpers = sorted(name for name, longest_s in idle.items() if longest_s <= SLOW * fast)
    overdue = sorted(row_id for row_id, age in ages.items() if age > SLOW * fast)
    return {row_id: helpers[k % len(helpers)] for k, row_id in enumerate(overdue)}
