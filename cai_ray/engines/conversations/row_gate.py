"""How many conversations may be open at once, so that each one's prefix is still cached at its next turn."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cai_ray.config import EngineConfig, ScalingConfig


class RowGate:
    """A semaphore over whole conversations whose limit follows what conversations turn out to need.

    limit = min(most rows, KV tokens / mean private tokens of a finished conversation), where private
    tokens are its final context less the prefix it shared with others when it began. Holding a slot for
    the whole conversation, not per request, is what keeps the cache useful: a per-request semaphore
    prefilled 2.6x as many tokens with a full cache.
    """

    def __init__(
        self,
        max_rows: int,
        num_kv_tokens: int | None,
        expected_tokens: int,
        fixed: int | None = None,
        told: Callable[[int], None] | None = None,
    ) -> None:
        """`told`: hears how many conversations are open whenever that changes."""
        self._told = told or (lambda num_open: None)
        self._max_rows = max_rows
        self._num_kv_tokens = num_kv_tokens
        self._fixed = fixed
        self._mean_tokens = float(max(1, expected_tokens))
        self._num_finished = 0
        self._num_open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        if self._fixed is not None:
            return self._fixed
        if self._num_kv_tokens is None:
            return self._max_rows
        return max(1, min(self._max_rows, int(self._num_kv_tokens / self._mean_tokens)))

    @asynccontextmanager
    async def row(self) -> AsyncIterator[None]:
        """Hold a slot for one conversation; first come, first served."""
        if self._num_open >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # whoever sets it has counted this row in
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release()
                raise
        else:
            self._num_open += 1
        self._told(self._num_open)
        try:
            yield
        finally:
            self._release()
            self._told(self._num_open)

    def _release(self) -> None:
        self._num_open -= 1
        while self._waiting and self._num_open < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._num_open += 1
                turn.set_result(None)

    def learn(self, num_private_tokens: int) -> None:
        """Take in one finished conversation's private tokens.

        The prior counts as eight rows and fades; 1/256 is the least weight, so that a drift is followed.
        """
        self._num_finished += 1
        weight = max(1 / (self._num_finished + 8), 1 / 256)
        self._mean_tokens += weight * (max(1, num_private_tokens) - self._mean_tokens)


def tasks_in_flight(engine: EngineConfig, scaling: ScalingConfig) -> int:
    """Batches handed to one engine at a time: half as many rows again as it can hold open, so that it never waits."""
    most_rows = engine.rows_in_flight or round(1.1 * engine.max_num_seqs)
    return math.ceil(1.5 * most_rows / scaling.rows_per_task) + 1


def share_of_tasks(scaling: ScalingConfig, num_rows: int) -> int:
    """Batches of one engine, >= 1, when `num_rows` are dealt out evenly to the engines that are sure to come.

    Without it the engine that is up first would take all rows of a small set, and the others would have none.
    """
    return max(1, math.ceil(num_rows / (scaling.rows_per_task * scaling.min_engines)))
