"""Requests to a model in this process: those that wait while it is at work are then computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cai_ray.dropped import DropReason, DropRow

Key = TypeVar("Key", bound=Hashable)  # of requests that one call computes together
Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Request, Answer]):
    request: Request
    length: int
    answer: asyncio.Future[Answer]


class Together(Generic[Key, Request, Answer]):
    """A queue by key; the longest requests go first, as many as fit.

    `compute` runs in a thread, one call at a time: a key and its requests -> an answer each. `num_that_fit`: of a key,
    by the longest request's length. All methods run on one event loop.
    """

    def __init__(
        self,
        compute: Callable[[Key, list[Request]], Sequence[Answer]],
        num_that_fit: Callable[[Key, int], int],
    ) -> None:
        self._compute, self._num_that_fit = compute, num_that_fit
        self._waiting: dict[Key, list[_Waiting[Request, Answer]]] = {}
        self._worker: asyncio.Task[None] | None = None

    def ask(self, key: Key, request: Request, length: int) -> asyncio.Future[Answer]:
        """The answer to come. It raises DropRow(REQUEST_REJECTED) where `compute` fails for this request alone."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(_Waiting(request, length, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return answer

    async def _work(self) -> None:
        await asyncio.sleep(0)  # whoever else is ready joins the first batch
        while self._waiting:
            key, waiting = next(iter(self._waiting.items()))
            waiting.sort(key=lambda one: one.length)
            most = max(1, self._num_that_fit(key, waiting[-1].length))
            batch = waiting[-most:]
            del waiting[-most:]
            if not waiting:
                del self._waiting[key]
            await self._answer(key, batch)

    async def _answer(self, key: Key, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        """Set each one's answer. When a call fails each request gets one of its own: the fault may be another's."""
        try:
            found = await asyncio.to_thread(self._compute, key, [one.request for one in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._answer(key, [one])
            elif not batch[0].answer.done():
                detail = f"{type(error).__name__}: {error}"[:500]
                batch[0].answer.set_exception(DropRow(DropReason.REQUEST_REJECTED, detail))
            return
        for one, answer in zip(batch, found, strict=True):
            if not one.answer.done():  # its row's time was up
                one.answer.set_result(answer)
