"""Rows of a slow engine are asked again of idle ones: engines of one process that talk through a dictionary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.chat import Message
from cai_ray.config import EngineConfig, SamplingConfig
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.conversations import generation, stragglers
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.conversations.stragglers import shared_out
from cai_ray.engines.peers import Peers

SCHEMA = pa.schema([("id", pa.string()), ("answer", pa.string())])


class Dictionary:
    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.ever: set[str] = set()

    def put(self, key: str, value: bytes) -> None:
        self.held[key] = value
        self.ever.add(key)

    def take(self, prefix: str, is_kept: bool) -> dict[str, bytes]:
        keys = [key for key in list(self.held) if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.held[key] if is_kept else self.held.pop(key) for key in keys}

    def delete(self, prefix: str) -> None:
        for key in [key for key in self.held if key.startswith(prefix)]:
            del self.held[key]


async def converse(row: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Two requests; the answers are those of the row's seeds."""
    asked = [await ask([{"role": "user", "content": row["id"]}], SamplingConfig()) for _ in range(2)]
    return {"id": row["id"], "answer": " ".join(one.text for one in asked)}


def takes(seconds: Callable[[str], float]) -> Script:
    async def answer(row_id: str, messages: Sequence[Message], seed: int) -> str:
        await asyncio.sleep(seconds(row_id))
        return f"{seed}"

    return answer


def engine(box: Dictionary, script: Script) -> ConversationActor:
    job = ConversationJob(
        "test", 3, SCHEMA, converse, lambda table: table, lambda: ScriptedBackend(script), EngineConfig(), 10
    )
    return ConversationActor(job, peers=Peers("pool", box))


async def ends(actor: ConversationActor, ids: list[str]) -> dict[str, dict[str, Any]]:
    batch = pa.table({"row_id": ids, "id": ids})
    return {row["row_id"]: row async for table in actor(batch) for row in table.to_pylist()}


def asked_again(found: dict[str, dict[str, Any]]) -> set[str]:
    return {row_id for row_id, end in found.items() if dict(end["counters"]).get("asked_again")}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "STOP_POLL_S", 0.02)
    monkeypatch.setattr(stragglers, "LEAST_S", 0.02)
    monkeypatch.setattr(stragglers, "IDLE_S", 0.02)


def together(
    box: Dictionary, fast: Script, slow: Script, of_slow: list[str]
) -> tuple[dict[str, dict[str, Any]], float]:
    """The ends of the slow engine's rows, and how long they took, beside an engine that is done with its own."""

    async def both() -> tuple[dict[str, dict[str, Any]], float]:
        began = time.monotonic()
        helper, straggler = engine(box, fast), engine(box, slow)
        _, found = await asyncio.gather(ends(helper, ["a", "b"]), ends(straggler, of_slow))
        return found, time.monotonic() - began

    return asyncio.run(both())


def test_a_slow_engines_rows_are_asked_of_an_idle_one_and_end_once_with_their_own_draws() -> None:
    ids = [f"row {k}" for k in range(6)]
    alone, _ = together(Dictionary(), takes(lambda row: 0.01), takes(lambda row: 0.01), ids)
    box = Dictionary()
    slow = takes(lambda row: 0.1 if row == "row 0" else 30.0)
    found, took_s = together(box, takes(lambda row: 0.01), slow, ids)
    assert {row: end["row"] for row, end in found.items()} == {row: end["row"] for row, end in alone.items()}
    assert asked_again(found) >= set(ids[1:]) and not asked_again(alone)
    assert all(dict(end["counters"])["num_requests"] == 2 for end in found.values())
    assert took_s < 10


def test_the_first_end_is_the_rows_whoever_gives_it() -> None:
    slow = takes(lambda row: 0.1 if row == "row 0" else 0.5)
    box = Dictionary()
    fast = takes(lambda row: 0.01 if row in "ab" else 30.0)
    found, took_s = together(box, fast, slow, ["row 0", "row 1"])
    assert found["row 1"]["row"]["id"] == "row 1" and took_s < 10
    assert "row 1" in asked_again(found), "the idle engine was asked, and the slow one answered first"


def test_engines_that_are_equally_slow_give_nothing_away() -> None:
    box = Dictionary()
    script = takes(lambda row: 0.2)

    async def both() -> dict[str, dict[str, Any]]:
        first, second = engine(box, script), engine(box, script)
        _, found = await asyncio.gather(ends(first, ["a", "b"]), ends(second, ["row 0", "row 1"]))
        return found | await ends(second, ["row 2", "row 3"])  # the first is idle meanwhile

    found = asyncio.run(both())
    assert len(found) == 4 and not asked_again(found)
    assert any("idle" in key for key in box.ever) and not any(":ask:" in key for key in box.ever)


def test_an_engine_that_answers_nothing_gives_nothing_away() -> None:
    """It hangs, perhaps by one of its rows: the supervisor's business."""
    box = Dictionary()

    async def both() -> None:
        helper, hung = engine(box, takes(lambda row: 0.01)), engine(box, takes(lambda row: 30.0))
        waiting = asyncio.ensure_future(ends(hung, ["row 0", "row 1"]))
        await ends(helper, ["a", "b"])
        await asyncio.sleep(0.5)
        waiting.cancel()

    asyncio.run(both())
    assert any("idle" in key for key in box.ever) and not any(":ask:" in key for key in box.ever)


def test_overdue_rows_are_shared_out_among_the_fast() -> None:
    ages = {"old": 9.0, "older": 12.0, "new": 3.0}
    assert shared_out(ages, {"x": 2.0, "y": 3.0, "slow": 40.0}) == {"old": "x", "older": "y"}
    assert shared_out(ages, {"slow": 40.0}) == {} == shared_out(ages, {})
