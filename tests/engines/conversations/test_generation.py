"""The engine actor's rows, in this process and without Ray: every row has one end, with its reason."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.artifacts.allowance import Allowance, Spent
from cai_ray.artifacts.parts import read_table
from cai_ray.artifacts.storage import Storage
from cai_ray.chat import Message
from cai_ray.config import EngineConfig, Price, SamplingConfig, ScalingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.ending import parted, raise_first
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.conversations.outcomes import commit_outcomes
from cai_ray.engines.conversations.purse import Purse
from cai_ray.engines.conversations.row_gate import share_of_tasks, tasks_in_flight
from cai_ray.engines.conversations.stage import _measured
from cai_ray.errors import ConfigError, EngineGaveUp, LimitReached

SCHEMA = pa.schema([("id", pa.string()), ("answer", pa.string())])


async def converse(row: dict[str, Any], ask: Ask) -> dict[str, Any]:
    completion = await ask([{"role": "user", "content": row["id"]}], SamplingConfig())
    if row["id"] == "unparsable":
        raise DropRow(DropReason.UNPARSABLE, "no verdict in it")
    return {"id": row["id"], "answer": completion.text}


def answer(row_id: str, messages: Sequence[Message], seed: int) -> Any:
    async def slow() -> str:
        await asyncio.sleep(30)
        return ""

    if row_id == "slow":
        return slow()
    if row_id == "broken":
        raise KeyError("surprise")
    return f"answer {seed}"


def outcomes(ids: list[str], limit_s: float = 1.0) -> pa.Table:
    job = ConversationJob(
        stage="test",
        seed=3,
        schema=SCHEMA,
        converse=converse,
        expand=lambda table: table,
        make_backend=lambda: ScriptedBackend(answer),
        engine=EngineConfig(row_time_limit_s=limit_s, stall_limit_s=60),
        expected_tokens=10,
        count=lambda row: {"letters": len(row["id"])},
    )
    batch = pa.table({"row_id": ids, "id": ids})

    async def everything() -> pa.Table:
        return pa.concat_tables([table async for table in ConversationActor(job)(batch)])

    return asyncio.run(everything())


def test_each_row_has_one_end_and_one_reason() -> None:
    table = outcomes(["fine", "unparsable", "slow", "broken", "good"])
    reasons = {row["row_id"]: row["dropped"]["reason"] for row in table.to_pylist() if row["dropped"]}
    assert reasons == {"unparsable": "unparsable", "slow": "timeout", "broken": "row_error"}
    answers = [row["row"]["id"] for row in table.to_pylist() if row["row"]]
    assert answers == ["fine", "good"]
    detail = next(row["dropped"]["detail"] for row in table.to_pylist() if row["row_id"] == "broken")
    assert "KeyError" in detail


def test_seeds_depend_on_the_row_and_not_on_its_company() -> None:
    alone = outcomes(["fine"]).to_pylist()[0]["row"]["answer"]
    together = {row["row_id"]: row["row"]["answer"] for row in outcomes(["good", "fine"]).to_pylist()}
    assert together["fine"] == alone
    assert together["good"] != alone


def test_outcomes_become_a_part(tmp_path: Any) -> None:
    folder = Storage(str(tmp_path))
    record = commit_outcomes(folder, SCHEMA, outcomes(["fine", "unparsable", "good"]))
    assert (record.num_rows, record.num_dropped, record.dropped_by_reason) == (2, 1, {"unparsable": 1})
    assert record.counters["num_requests"] == 3
    assert record.counters["letters"] == 8
    assert record.counters["engine_starts"] == 1
    assert record.rows is not None
    assert read_table(folder, record.rows.name)["id"].to_pylist() == ["fine", "good"]


@pytest.mark.parametrize("fault", [EngineGaveUp("budget"), ConfigError("no such head size")])
def test_an_engine_that_ends_keeps_the_rows_that_are_done_and_leaves_the_others(fault: Exception) -> None:
    async def gone(row_id: str, messages: Sequence[Message], seed: int) -> str:
        if row_id == "waits":
            await asyncio.sleep(3600)
        if row_id == "last":
            await asyncio.sleep(0.02)
            raise fault
        return "yes"

    job = ConversationJob("test", 0, SCHEMA, converse, lambda t: t, lambda: ScriptedBackend(gone), EngineConfig(), 10)
    actor = ConversationActor(job)

    async def everything() -> list[pa.Table]:
        ids = ["done", "unparsable", "last", "waits"]
        batches = [pa.table({"row_id": ids, "id": ids}), pa.table({"row_id": ["later"], "id": ["later"]})]
        return [table for batch in batches async for table in actor(batch)]

    first, second = asyncio.run(everything())
    done, endings = parted(first)
    assert done["row_id"].to_pylist() == ["done", "unparsable"] and len(endings) == 1
    with pytest.raises(type(fault), match=str(fault)):
        raise_first(endings)
    assert parted(second)[0].num_rows == 0, "nothing is begun after the end"


def test_a_limit_lets_what_is_under_way_end_and_begins_nothing_more(tmp_path: Path) -> None:
    """Three rows at a time, each of 1 + 2 tokens: a limit of 10 is reached by the fourth, when two are under way."""

    async def later(row_id: str, messages: Sequence[Message], seed: int) -> str:
        await asyncio.sleep(0.01 * int(row_id))
        return "two words"

    engine = EngineConfig(rows_in_flight=3)
    job = ConversationJob("test", 0, SCHEMA, converse, lambda t: t, lambda: ScriptedBackend(later), engine, 10)
    allowance = Allowance(Storage(str(tmp_path)), Spent(), 10, None, None, {"tokens": "limits.tokens=10"})
    actor = ConversationActor(job, purse=Purse(allowance, Price(output=500_000), "k"))
    ids = [str(number) for number in range(20)]

    async def everything() -> list[pa.Table]:
        return [table async for table in actor(pa.table({"row_id": ids, "id": ids}))]

    (table,) = asyncio.run(everything())
    done, endings = parted(table)
    assert 4 <= done.num_rows <= 4 + 3 and done["row_id"].to_pylist() == ids[: done.num_rows]
    costs = [dict(counters)["microdollars"] for counters in done["counters"].to_pylist()]
    assert costs == [1_000_000] * done.num_rows
    with pytest.raises(LimitReached, match=r"limits\.tokens=10 is reached.*Raise it"):
        raise_first(endings)


def test_an_engine_always_has_rows_waiting() -> None:
    engine = EngineConfig(max_num_seqs=128)
    assert tasks_in_flight(engine, ScalingConfig(rows_per_task=32)) * 32 >= 1.5 * 1.1 * 128
    assert tasks_in_flight(EngineConfig(rows_in_flight=4), ScalingConfig(rows_per_task=32)) == 2


@given(st.integers(0, 10_000), st.integers(1, 64), st.integers(1, 16))
def test_engines_that_are_sure_to_come_share_all_rows(num_rows: int, rows_per_task: int, num_engines: int) -> None:
    scaling = ScalingConfig(rows_per_task=rows_per_task, min_engines=num_engines, max_engines=16)
    num_tasks = math.ceil(num_rows / rows_per_task)
    share = share_of_tasks(scaling, num_rows)
    assert share * num_engines >= num_tasks  # nothing waits once all are up
    assert share == 1 or (share - 1) * num_engines < num_tasks  # and none has more than its share


def test_about_as_many_rows_are_measured_as_a_job_wants() -> None:
    def measured(rows: int | None, num_units: int) -> int:
        made = ConversationJob(
            "test", 0, SCHEMA, converse, lambda t: t, lambda: ScriptedBackend(answer), EngineConfig(), 9
        )
        sized = _measured(replace(made, measured_rows=rows), num_units)
        return sum(sized.measures(f"row {k}") for k in range(num_units))

    assert measured(None, 5000) == 5000
    assert measured(16, 10) == 10
    assert 190 < measured(256, 5000) < 320
    assert measured(256, 5000) == measured(256, 5000)
