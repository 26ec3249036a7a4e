"""Engine deaths, hangs and poison rows, on a scripted engine: every other row completes, starts stay bounded (G6)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cai_ray.chat import Message
from cai_ray.config import EngineConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.engines.conversations.asking import EngineDied
from cai_ray.engines.conversations.supervisor import RowClock, Supervisor
from cai_ray.errors import ConfigError, EngineGaveUp

GREETING = [{"role": "user", "content": "Good morning"}]


class FragileBackend(ScriptedBackend):
    """Dies, with every request in flight, when a row of `poison` asks; hangs when one of `hanging` does."""

    def __init__(self, poison: set[str] = frozenset(), hanging: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__(self._answer)
        self.poison, self.hanging = poison, hanging
        self.dead = asyncio.Event()
        self.stuck = False
        self.die_at_request: int | None = None
        self.num_requests = 0

    async def start(self) -> None:
        await super().start()
        self.dead = asyncio.Event()
        self.stuck = False

    def kill(self) -> None:
        super().kill()
        self.dead.set()

    async def _answer(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        dead = self.dead
        self.num_requests += 1
        if self.num_requests == self.die_at_request or row_id in self.poison:
            dead.set()
        if row_id in self.hanging:
            self.stuck = True
        for _ in range(3):
            if dead.is_set():
                raise EngineDied("scripted")
            await asyncio.sleep(0.001)
        if self.stuck:
            await dead.wait()
        if dead.is_set():
            raise EngineDied("scripted")
        return f"answer to {row_id}"


async def converse(supervisor: Supervisor, row_id: str, num_turns: int = 3, limit_s: float = 60.0) -> str:
    clock = RowClock(limit_s)
    ask = supervisor.backend.open(row_id, lambda k: k, lambda send: supervisor.request(row_id, clock, send))
    async with clock:
        for _ in range(num_turns):
            completion = await ask(GREETING, SamplingConfig())
    return completion.text


async def all_rows(
    backend: FragileBackend, num_rows: int, config: EngineConfig
) -> tuple[Supervisor, dict[str, object]]:
    supervisor = Supervisor(backend, config)
    ids = [f"row{i}" for i in range(num_rows)]
    results = await asyncio.gather(*(converse(supervisor, row_id) for row_id in ids), return_exceptions=True)
    return supervisor, dict(zip(ids, results, strict=True))


def test_one_death_costs_one_start_and_no_row() -> None:
    async def scenario() -> None:
        backend = FragileBackend()
        backend.die_at_request = 100
        supervisor, results = await all_rows(backend, 64, EngineConfig())
        assert results == {row_id: f"answer to {row_id}" for row_id in results}
        assert supervisor.num_starts == backend.num_starts == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("num_rows", [1, 2, 7, 128])
def test_a_poison_row_is_found_and_every_other_row_completes(num_rows: int) -> None:
    async def scenario() -> None:
        backend = FragileBackend(poison={"row0"})
        supervisor, results = await all_rows(backend, num_rows, EngineConfig())
        drop = results.pop("row0")
        assert isinstance(drop, DropRow)
        assert drop.reason == DropReason.ENGINE_KILLED
        assert drop.attempts >= 2
        assert results == {row_id: f"answer to {row_id}" for row_id in results}
        assert supervisor.num_starts <= 1 + 4

    asyncio.run(scenario())


def test_several_poison_rows_are_all_found() -> None:
    async def scenario() -> None:
        poison = {"row3", "row40", "row41"}
        supervisor, results = await all_rows(FragileBackend(poison=poison), 64, EngineConfig())
        dropped = {row_id for row_id, result in results.items() if isinstance(result, DropRow)}
        assert dropped == poison
        assert supervisor.num_starts <= 1 + 4 * len(poison)

    asyncio.run(scenario())


def test_a_hanging_row_is_killed_found_and_dropped() -> None:
    async def scenario() -> None:
        backend = FragileBackend(hanging={"row5"})
        config = EngineConfig(stall_limit_s=0.6)
        supervisor, results = await all_rows(backend, 32, config)
        drop = results.pop("row5")
        assert isinstance(drop, DropRow)
        assert drop.reason == DropReason.ENGINE_HUNG
        assert results == {row_id: f"answer to {row_id}" for row_id in results}
        assert supervisor.num_starts <= 1 + 4

    asyncio.run(scenario())


def test_the_restart_budget_ends_in_a_message() -> None:
    async def scenario() -> None:
        poison = {f"row{i}" for i in range(64)}
        supervisor, results = await all_rows(FragileBackend(poison=poison), 64, EngineConfig(max_restarts=3))
        gave_up = [result for result in results.values() if isinstance(result, EngineGaveUp)]
        assert gave_up
        assert "max_restarts=3" in str(gave_up[0])
        assert supervisor.num_starts == 1 + 3

    asyncio.run(scenario())


def test_an_engine_that_answers_nothing_ends_after_two_starts() -> None:
    class Unanswering(ScriptedBackend):
        async def probe(self) -> None:
            raise EngineDied("scripted")

    def dies(row_id: str, messages: Sequence[Message], seed: int) -> str:
        raise EngineDied("scripted")

    async def scenario() -> None:
        supervisor = Supervisor(Unanswering(dies), EngineConfig())
        for row_id in ("a", "b"):
            with pytest.raises((EngineGaveUp, ConfigError), match="answers no request"):
                await converse(supervisor, row_id)
        assert supervisor.num_starts == 2

    asyncio.run(scenario())


def test_an_engine_that_does_not_start_is_reported_to_every_row() -> None:
    class Broken(ScriptedBackend):
        async def start(self) -> None:
            raise OSError("no space for the weights")

    async def scenario() -> None:
        supervisor = Supervisor(Broken(lambda row_id, messages, seed: ""), EngineConfig())
        for row_id in ("a", "b"):
            with pytest.raises(EngineGaveUp, match="no space for the weights"):
                await converse(supervisor, row_id)

    asyncio.run(scenario())


def test_the_row_clock_stands_still_while_the_engine_is_down() -> None:
    class SlowStart(FragileBackend):
        async def start(self) -> None:
            await asyncio.sleep(1.2)
            await super().start()

    async def scenario() -> None:
        backend = SlowStart()
        backend.die_at_request = 2
        assert await converse(Supervisor(backend, EngineConfig()), "row0", limit_s=1.0) == "answer to row0"

    asyncio.run(scenario())


def test_a_row_past_its_time_limit_ends_and_leaves_the_others_alone() -> None:
    async def slow(row_id: str, messages: Sequence[Message], seed: int) -> str:
        await asyncio.sleep(30 if row_id == "slow" else 0)
        return "ok"

    async def scenario() -> None:
        supervisor = Supervisor(ScriptedBackend(slow), EngineConfig())
        late, other = await asyncio.gather(
            converse(supervisor, "slow", limit_s=0.05), converse(supervisor, "quick"), return_exceptions=True
        )
        assert isinstance(late, TimeoutError)
        assert other == "ok"

    asyncio.run(scenario())


def test_a_suspect_that_times_out_does_not_hold_up_the_probes() -> None:
    async def scenario() -> None:
        backend = FragileBackend(poison={"row1"})
        supervisor = Supervisor(backend, EngineConfig())
        rows = [asyncio.ensure_future(converse(supervisor, f"row{i}")) for i in range(16)]
        await asyncio.sleep(0.004)
        rows[2].cancel()
        results = await asyncio.wait_for(asyncio.gather(*rows, return_exceptions=True), 60)
        assert isinstance(results[1], DropRow)
        assert all(isinstance(r, str) for i, r in enumerate(results) if i not in (1, 2))

    asyncio.run(scenario())
