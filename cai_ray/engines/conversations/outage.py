"""A request that is lost by itself, told from a server that is away.

A server that cannot serve one request (its prompt breaks something there) still serves others: that one is dropped.
A server that serves nobody must cost no row. So a lost request has a witness: a request that the server has answered
before is sent again. Without an answer to that one either, all rows wait for the server for a bounded time, and when
it does not come back the run ends as one to repeat.

Tested in tests/engines/conversations/test_outage.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cai_ray.errors import EngineGaveUp

Send = Callable[[], Awaitable[Any]]
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # between the tries to reach a server that is away: half a minute in all
WITNESS_LIMIT_S = 30.0  # a server that takes longer over a request that it has answered before is away


class Outage:
    """What is known of one server: whom it answered, and whether it is away."""

    def __init__(self, server: str, pauses_s: Sequence[float] | None = None, limit_s: float = WITNESS_LIMIT_S) -> None:
        self._server, self._limit_s = server, limit_s
        self._pauses_s = PAUSES_S if pauses_s is None else pauses_s
        self._witness: Send | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._over: EngineGaveUp | None = None  # for good

    def answered(self, send: Send) -> None:
        """The server answers; the first request that it answered is the witness."""
        if self._witness is None:
            self._witness = send

    def check(self) -> None:
        """Raises EngineGaveUp once the server was given up."""
        if self._over is not None:
            raise self._over

    async def is_lost_alone(self, send: Send, detail: str) -> bool:
        """Whether a request that was lost is the only one; False: the server was away and is back, send it again.

        `detail`: how it was lost. Raises EngineGaveUp when the server does not come back. Requests that are lost at
        the same time wait together.
        """
        self.check()
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(send, detail))
        asking = self._asking
        try:
            return await asyncio.shield(asking)
        finally:
            if asking.done() and self._asking is asking:
                self._asking = None

    async def _ask(self, send: Send, detail: str) -> bool:
        if self._witness is not None and await self._answers(self._witness):
            return True
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            if await self._answers(self._witness or send):
                return False
        self._over = EngineGaveUp(
            f"{self._server} answers no request, not even one that it has answered before, and did not come back in "
            f"{sum(self._pauses_s):g} s; the last was lost with: {detail}. What is done is kept and no row is dropped "
            "for it; run the same command again when the server is well"
            if self._witness
            else f"{self._server} has answered no request yet, nor in {sum(self._pauses_s):g} s of waiting; the "
            f"last was lost with: {detail}. No row is dropped for it; run the same command again when it is well"
        )
        raise self._over

    async def _answers(self, send: Send) -> bool:
        try:
            async with asyncio.timeout(self._limit_s):
                await send()
        except Exception:  # whatever it is, it is no answer
            return False
        return True
