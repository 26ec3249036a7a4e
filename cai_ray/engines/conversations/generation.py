"""The conversation engine: thousands of row coroutines at once inside each engine actor of a Ray Data pool.

Requests of all rounds and all rows share one continuous batch, one loaded model, one prefix cache.
There is no barrier between rounds and no engine per round. The pools of engines are in pool.py.
"""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cai_ray.artifacts import counters as counted
from cai_ray.artifacts.storage import Storage
from cai_ray.config import EngineConfig
from cai_ray.dropped import DropReason, DropRow, dropped_row
from cai_ray.engines.conversations.asking import Ask, Backend, Conversation
from cai_ray.engines.conversations.ending import LEFT, Ending, is_asked_to_stop, left_row
from cai_ray.engines.conversations.outcomes import outcome_schema
from cai_ray.engines.conversations.purse import Purse
from cai_ray.engines.conversations.row_gate import RowGate
from cai_ray.engines.conversations.sampled import KEPT_PER_ENGINE, PROOF_ROWS, SAMPLED, packed
from cai_ray.engines.conversations.stragglers import Stragglers
from cai_ray.engines.conversations.supervisor import RowClock, Supervisor
from cai_ray.engines.conversations.units import Expand
from cai_ray.engines.peers import Peers
from cai_ray.engines.shared_folder import check_seen
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.progress.exported import Exported
from cai_ray.rows import ROW_ID
from cai_ray.seeding import digest, seed_for

STOP_POLL_S = 1.0


@dataclass(frozen=True)
class ConversationJob:
    """What a stage wants done with each of its rows. Travels to the workers: everything in it pickles."""

    stage: str
    seed: int
    schema: pa.Schema  # of the rows that come out
    converse: Callable[[dict[str, Any], Ask], Awaitable[dict[str, Any]]]  # one row's dialogue; may raise DropRow
    expand: Expand
    make_backend: Callable[[], Backend]
    engine: EngineConfig
    expected_tokens: int  # a conversation's final context as a first guess, tokens
    count: Callable[[dict[str, Any]], dict[str, int]] = field(default=lambda row: {})  # further counters of a row
    measured_rows: int | None = PROOF_ROWS  # about how many rows' answers come with log-probabilities; None: all
    measured_share: float = 1.0  # of the rows that there are, known when the stage begins

    def measures(self, row_id: str) -> bool:
        """Whether this row's answers are to come with log-probabilities; the same rows every time."""
        return int.from_bytes(digest("measured", row_id, num_bytes=4), "big") < self.measured_share * 2**32


class ConversationActor:
    """One engine and the conversations it holds; `__call__` is Ray Data's async batch function."""

    def __init__(
        self,
        job: ConversationJob,
        folder: Storage | None = None,
        purse: Purse | None = None,
        peers: Peers | None = None,
    ) -> None:
        """`peers`: of a pool whose engines take rows off each other."""
        self._job = job
        self._purse = purse or Purse(None, None, "")
        self._folder = folder  # where the rows will go
        self._exported = Exported.of(folder, job.stage) if folder else None
        self._schema = outcome_schema(job.schema)
        self.backend = job.make_backend()
        if folder is not None:
            self.backend.keep_in(folder)
        self._supervisor = Supervisor(self.backend, job.engine)
        self._stragglers = Stragglers(peers, self._run_row, self._supervisor.is_slow_with) if peers else None
        self._gate: RowGate | None = None
        self._num_starts_reported = 0
        self._num_sampled = 0  # answers kept for a proof
        self._ending: Ending | None = None  # why no further row is begun
        self._under_way: set[asyncio.Task[dict[str, Any]]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._first_answer: asyncio.Task[None] | None = None
        self._doubts: list[str] = []

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        if self._watcher is None:
            self._watcher = asyncio.ensure_future(self._watch_for_a_stop())
        rows = batch.to_pylist()
        if not await self._is_ready() or self._ending is not None:
            outcomes = [self._left(row) for row in rows]
        else:
            outcomes = await self._run_rows(rows)
        new_starts = self._supervisor.num_starts - self._num_starts_reported
        if self._exported:
            self._exported.restarted(new_starts - (new_starts > 0 and not self._num_starts_reported))
        self._num_starts_reported += new_starts
        if new_starts and outcomes:
            outcomes[0]["counters"].append((counted.ENGINE_STARTS, new_starts))
        while self._doubts and outcomes:
            outcomes[0]["counters"].append((self._doubts.pop(), 1))
        yield pa.Table.from_pylist(outcomes, self._schema)

    async def _run_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        tasks = [asyncio.ensure_future(self._run_row(row)) for row in rows]
        self._under_way.update(tasks)
        if self._stragglers:
            for row, task in zip(rows, tasks, strict=True):
                self._stragglers.begin(row, task)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        self._under_way.difference_update(tasks)
        if self._stragglers:
            ends = [self._stragglers.end(row[ROW_ID], end) for row, end in zip(rows, ends, strict=True)]
        return [self._outcome(row, end) for row, end in zip(rows, ends, strict=True)]

    async def _is_ready(self) -> bool:
        """Whether the engine is up and rows may pass the gate; False when it never will be."""
        try:
            if self._folder is not None:
                check_seen(self._folder)
            await self._supervisor.ready()
            if self._first_answer is None:
                self._first_answer = asyncio.ensure_future(self._ask_first())
            await asyncio.shield(self._first_answer)
        except (EngineGaveUp, ConfigError) as error:
            self._end(Ending.of(error))
            return False
        if self._gate is None:
            gc.collect()
            gc.freeze()  # an engine's libraries stay: the collector would look through them for every few rows
            self._gate = RowGate(
                self.backend.max_concurrent_rows,
                self.backend.num_kv_tokens,
                self._job.expected_tokens,
                self._job.engine.rows_in_flight,
                self._exported.in_flight if self._exported else None,
            )
        return True

    async def _ask_first(self) -> None:
        clock = RowClock(self._job.engine.row_time_limit_s)
        try:
            async with clock:
                doubt = await self.backend.first_answer(lambda send: self._supervisor.request("first", clock, send))
        except (DropRow, TimeoutError):
            return  # whatever it is, the rows meet it themselves
        if doubt is not None:
            self._doubts.append(doubt)

    async def _watch_for_a_stop(self) -> None:
        while not await asyncio.to_thread(is_asked_to_stop):
            await asyncio.to_thread(self._purse.exchange)
            if self._stragglers:
                await self._stragglers.exchange()
            await asyncio.sleep(STOP_POLL_S)
        self._end(Ending(kind="stopped", message=""))

    def _end(self, ending: Ending) -> None:
        """Leave the rows that are under way, and all that come."""
        if self._ending is None:
            self._ending = ending
            for task in self._under_way:
                task.cancel()

    def _outcome(self, row: dict[str, Any], end: dict[str, Any] | BaseException) -> dict[str, Any]:
        if not isinstance(end, BaseException):
            return end
        if isinstance(end, EngineGaveUp | ConfigError | asyncio.CancelledError) and self._ending is not None:
            return self._left(row)
        raise end

    def _left(self, row: dict[str, Any]) -> dict[str, Any]:
        assert self._ending is not None
        return left_row(row[ROW_ID], self._ending)

    async def _run_row(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._end_of_row(row)
        except (EngineGaveUp, ConfigError) as error:
            self._end(Ending.of(error))
            raise

    async def _end_of_row(self, row: dict[str, Any]) -> dict[str, Any]:
        job, row_id, gate = self._job, row[ROW_ID], self._gate
        assert gate is not None
        clock = RowClock(job.engine.row_time_limit_s)
        conversation = self.backend.open(
            row_id,
            lambda k: seed_for(job.seed, job.stage, row_id, k),
            lambda send: self._supervisor.request(row_id, clock, send),
        )
        conversation.wants_logprobs = job.measures(row_id)
        result: dict[str, Any] | None = None
        dropped: DropRow | None = None
        async with gate.row():
            if (reached := self._purse.why_empty()) is not None:
                return left_row(row_id, Ending(kind="limit", message=reached))
            try:
                with self._purse.conversation(conversation.usage):
                    async with clock:
                        result = await job.converse(row, conversation)
            except DropRow as error:
                dropped = error
            except TimeoutError:
                await self.backend.check_answers()
                limit = job.engine.row_time_limit_s
                dropped = DropRow(DropReason.TIMEOUT, f"the conversation took longer than row_time_limit_s={limit:g}")
            except (EngineGaveUp, ConfigError, asyncio.CancelledError):
                raise
            except Exception as error:  # one row's surprise must not cost the other 100,000; it is counted
                where = traceback.extract_tb(error.__traceback__)[-1]
                dropped = DropRow(
                    DropReason.ROW_ERROR, f"{type(error).__name__} at {where.name}:{where.lineno}: {error}"[:500]
                )
            gate.learn(conversation.num_context_tokens - conversation.num_shared_tokens)
        usage = conversation.usage
        counters = Counter(usage.counters)
        counters[counted.REQUESTS] = usage.num_requests
        counters[counted.PROMPT_TOKENS] = usage.num_prompt_tokens
        counters[counted.CACHED_TOKENS] = usage.num_cached_tokens
        counters[counted.OUTPUT_TOKENS] = usage.num_output_tokens
        if (cost := self._purse.cost(usage)) is not None:
            counters[counted.MICRODOLLARS] = cost
        if result is not None:
            counters.update(job.count(result))
        return {
            ROW_ID: row_id,
            "row": result,
            "dropped": None if dropped is None else dropped_row(row_id, job.stage, dropped),
            "counters": list(counters.items()),
            SAMPLED: self._kept(conversation),
            LEFT: None,
        }

    def _kept(self, conversation: Conversation) -> str | None:
        sampled = packed(conversation.sampled) if self._num_sampled < KEPT_PER_ENGINE else None
        self._num_sampled += sampled is not None
        return sampled
