"""Keep conversations going when the engine dies or hangs, and find the row that does it.

When the engine dies, every conversation waits for a new one and goes on from the turn it was at. A row
with a request in flight at two deaths is a suspect: suspects' requests are probed with nothing else
running, in groups of about sqrt(n), and the members of a group that kills the engine are probed alone.
A row that kills or hangs it alone is dropped. One such row costs four engine starts at most, whatever
the number of rows, and every other row completes (guarantee G6).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from cai_ray.config import EngineConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Backend, EngineDied
from cai_ray.engines.conversations.last_words import given_up, last_lines, logs, told
from cai_ray.errors import ConfigError, EngineGaveUp

logger = logging.getLogger(__name__)
T = TypeVar("T")
SUSPECT_AFTER_DEATHS = 2  # one death may be the machine's fault; two with the same request are telling


class RowClock:
    """A conversation's time limit, which stands still while the engine is down or others are probed."""

    def __init__(self, limit_s: float) -> None:
        self._timeout = asyncio.timeout(limit_s)

    async def __aenter__(self) -> RowClock:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._timeout.__aexit__(*error)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        deadline = self._timeout.when()
        started = asyncio.get_running_loop().time()
        if deadline is None or self._timeout.expired():
            yield
            return
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            if not self._timeout.expired():
                self._timeout.reschedule(deadline + asyncio.get_running_loop().time() - started)


class Supervisor:
    """Passes requests to a backend; restarts it, within a budget, and isolates rows that break it."""

    def __init__(self, backend: Backend, config: EngineConfig) -> None:
        self.backend = backend
        self.config = config
        self.num_starts = 0
        self._changed = asyncio.Condition()
        self._up = False
        self._last_answer: float | None = None  # of any engine to any row
        self._starting: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._generation = 0
        self._in_flight: set[str] = set()
        self._last_progress = 0.0
        self._hung_generation = -1
        self._deaths: dict[str, int] = {}
        self._suspects: dict[str, bool] = {}  # row id -> must be probed alone
        self._probing: set[str] = set()
        self._verdicts: dict[str, DropReason] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def request(self, row_id: str, clock: RowClock, send: Callable[[], Awaitable[T]]) -> T:
        """The result of `send()`, on as many engines as it takes.

        Raises DropRow when this row is what breaks the engine, EngineGaveUp when the budget is used up.
        """
        try:
            while True:
                if self._is_open_to(row_id):  # nearly always: no lock, and no timer moved
                    self._in_flight.add(row_id)
                    generation = self._generation
                else:
                    with clock.paused():
                        generation = await self._admit(row_id)
                try:
                    result = await send()
                except EngineDied as death:  # still counted as in flight: _bury needs to know who was
                    self._bury(generation)
                    if row_id in self._verdicts:
                        raise DropRow(
                            self._verdicts.pop(row_id),
                            f"the engine broke {self._deaths[row_id]} times with this request, at last with no other",
                            attempts=self._deaths[row_id],
                        ) from death
                else:
                    self._last_progress = self._last_answer = time.monotonic()
                    self._deaths.pop(row_id, None)
                    return result
        finally:
            await self._leave(row_id)

    def is_slow_with(self, row_id: str, since: float) -> bool:
        """Whether a row that has been here `since` (monotonic) waits for an engine that is well and answers others."""
        is_well = self._up and not self._suspects and row_id not in self._deaths
        return is_well and self._last_answer is not None and self._last_answer > since

    async def ready(self) -> None:
        """Wait until an engine is up, starting the first one."""
        async with self._changed:
            while not self._up:
                self._raise_failure()
                if self._starting is None:
                    self._starting = asyncio.ensure_future(self._start())
                await self._changed.wait()

    def _raise_failure(self) -> None:
        if isinstance(self._failure, EngineGaveUp | ConfigError):
            raise self._failure
        if self._failure is not None:
            raise given_up(f"the engine does not start: {self._failure}") from self._failure

    async def _admit(self, row_id: str) -> int:
        """Wait until this row may send; the engine's generation."""
        async with self._changed:
            while True:
                self._raise_failure()
                if not self._up:
                    if self._starting is None:
                        self._starting = asyncio.ensure_future(self._start())
                elif self._is_open_to(row_id):
                    self._in_flight.add(row_id)
                    return self._generation
                await self._changed.wait()

    def _is_open_to(self, row_id: str) -> bool:
        return self._up and self._failure is None and (not self._suspects or row_id in self._probing)

    async def _leave(self, row_id: str) -> None:
        self._in_flight.discard(row_id)
        if not self._suspects and not self._probing:
            return  # nobody waits for this
        if row_id in self._probing or row_id in self._suspects:
            self._probing.discard(row_id)
            self._suspects.pop(row_id, None)
        if self._suspects or self._probing:
            self._next_probe()
        async with self._changed:
            self._changed.notify_all()

    def _bury(self, generation: int) -> None:
        """The first to report a generation's death takes stock and has a new engine started."""
        if generation != self._generation or not self._up:
            return
        self._up = False
        reason = DropReason.ENGINE_HUNG if self._hung_generation == generation else DropReason.ENGINE_KILLED
        victims, self._in_flight = self._in_flight, set()
        logger.warning("the engine died (%s) with %d requests in flight", reason, len(victims))
        alone = len(victims) == 1
        for row_id in victims:
            self._deaths[row_id] = self._deaths.get(row_id, 0) + 1
            if self._deaths[row_id] < SUSPECT_AFTER_DEATHS:
                continue
            if alone:
                self._verdicts[row_id] = reason
                self._suspects.pop(row_id, None)
            else:
                self._suspects[row_id] = bool(self._probing)
        self._probing = set()
        self._starting = asyncio.ensure_future(self._start())

    def _next_probe(self) -> None:
        """Choose who is probed next, once nothing else is in flight."""
        if self._probing or self._in_flight or not self._suspects or not self._up:
            return
        alone = [row_id for row_id, by_itself in self._suspects.items() if by_itself]
        if alone:
            self._probing = {alone[0]}
        else:
            group_size = math.ceil(math.sqrt(len(self._suspects)))
            self._probing = set(list(self._suspects)[:group_size])

    async def _start(self) -> None:
        try:
            if self.num_starts > self.config.max_restarts:
                raise EngineGaveUp(
                    f"the engine died {self.num_starts} times, more than max_restarts={self.config.max_restarts}; "
                    f"run the same command again to go on; {told(logs(), last_lines(logs()))}"
                )
            self.num_starts += 1
            await self.backend.start()
            if self.num_starts > 1 and self._last_answer is None:
                await self._probe()
        except Exception as error:  # whoever waits must hear of it: it is raised in their place
            self._failure = error
        else:
            self._generation += 1
            self._up = True
            self._last_progress = time.monotonic()
            if self._watcher is None:
                self._watcher = asyncio.ensure_future(self._watch())
        self._starting = None
        self._next_probe()
        async with self._changed:
            self._changed.notify_all()

    async def _probe(self) -> None:
        """One harmless request to the second engine when the first died without an answer: is it a row or the engine?

        Raises ConfigError when the engine's own words say that it cannot run this model, else EngineGaveUp.
        """
        try:
            async with asyncio.timeout(self.config.stall_limit_s):
                await self.backend.probe()
        except (EngineDied, TimeoutError) as death:
            raise given_up("the engine starts but answers no request, not one of a single token") from death

    async def _watch(self) -> None:
        """Kill an engine that has requests and finishes none for `stall_limit_s`."""
        idle_since = time.monotonic()
        while True:
            await asyncio.sleep(min(5.0, self.config.stall_limit_s / 4))
            now = time.monotonic()
            if not self._up or not self._in_flight:
                idle_since = now
                continue
            if now - max(self._last_progress, idle_since) > self.config.stall_limit_s:
                logger.warning("the engine finished nothing for %.0f s: killing it", self.config.stall_limit_s)
                self._hung_generation = self._generation
                self._last_progress = now
                self.backend.kill()
