"""The meeting place of a driver and its Ray Train workers: commands go one way, answers the other.

Ray Train starts workers and starts them again, so nobody outside knows them. They come here for work. A group of
workers that started together has a name; when another group comes, the one before is lost, and so is what it was at.
The hub runs Ray Train itself, so that killing the hub ends everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

Outcome = Literal["done", "lost", "failed", "bad_config", "gave_up"]
GRACE_S = 5.0  # workers that were told to stop have ended by then, or are ended


@dataclass
class Reply:
    """How a call ended. `results`: one per worker, by rank, of "done". `message` of all else."""

    outcome: Outcome
    results: list[Any] = field(default_factory=list)
    message: str = ""
    group: str = ""


@dataclass
class Call:
    """One command, under way."""

    number: int
    name: str
    arguments: Any  # a list with an object reference, which so stays a reference
    answers: dict[int, Any] = field(default_factory=dict)


class Hub:
    """A Ray actor."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._group = ""
        self._ranks: set[int] = set()
        self._num_workers = 0
        self._call: Call | None = None
        self._number = 0
        self._end: Reply | None = None  # nothing can be called any more
        self._stopping = False

    # The driver's side.

    async def run(self, fit: Callable[[Any], None]) -> None:
        """Run Ray Train until it ends: `fit` is given this actor's handle, and blocks."""
        import ray

        await self._run_until_over(partial(fit, ray.get_runtime_context().current_actor))

    async def _run_until_over(self, fit: Callable[[], None]) -> None:
        message = "the workers have ended"
        try:
            await asyncio.get_running_loop().run_in_executor(None, fit)
        except Exception as error:
            message = str(error)
        async with self._changed:
            self._end = self._end or Reply("gave_up", message=message)
            self._changed.notify_all()

    async def ready(self) -> Reply:
        """Wait for a whole group; its name is in the reply."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._end or self._is_whole())
            return self._end or Reply("done", group=self._group)

    async def call(self, group: str, name: str, arguments: list[Any]) -> Reply:
        """Have every worker of `group` do a command."""
        async with self._changed:
            if self._end is None and self._group == group:
                self._number += 1
                call = self._call = Call(self._number, name, arguments)
                self._changed.notify_all()
                await self._changed.wait_for(
                    lambda: self._end or self._group != group or len(call.answers) == self._num_workers
                )
                self._call = None
                if self._end is None and self._group == group:
                    return Reply("done", [call.answers[rank] for rank in range(self._num_workers)])
            return self._end or Reply("lost", message="a worker was lost and all were started anew")

    async def stop(self) -> None:
        """Let the workers end."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._end), GRACE_S)
            except TimeoutError:
                return

    # The workers' side.

    async def join(self, group: str, rank: int, num_workers: int) -> None:
        """A worker is ready for work."""
        async with self._changed:
            if group != self._group:
                self._group, self._ranks = group, set()
            self._ranks.add(rank)
            self._num_workers = num_workers
            self._changed.notify_all()

    async def next(self, group: str, done: int) -> tuple[int, str, Any] | None:
        """The command after number `done`: number, name, arguments. None: end."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._end or self._stopping or self._group != group or (self._call and self._call.number > done)
            )
            if self._end or self._stopping or self._group != group or self._call is None:
                return None
            return self._call.number, self._call.name, self._call.arguments

    async def answer(self, group: str, rank: int, number: int, result: Any) -> None:
        """A worker has done command `number`."""
        async with self._changed:
            if group == self._group and self._call is not None and self._call.number == number:
                self._call.answers[rank] = result
                self._changed.notify_all()

    async def fail(self, outcome: Literal["failed", "bad_config"], message: str) -> None:
        """What a worker met would meet it again after a new start."""
        async with self._changed:
            self._end = self._end or Reply(outcome, message=message)
            self._changed.notify_all()

    async def is_over(self) -> bool:
        """New workers need not start."""
        return self._end is not None or self._stopping

    def _is_whole(self) -> bool:
        return bool(self._group) and len(self._ranks) == self._num_workers
