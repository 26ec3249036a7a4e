"""Engines that stay up, in real Ray with scripted backends: rows in order, lost actors, engines that never start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.chat import Message
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.placement import EnginesConfig
from cai_ray.engines.rollouts.standing import StandingEngines
from cai_ray.errors import ConfigError

pytestmark = pytest.mark.slow
OPTIONS = ("A", "B")


def script(row_id: str, messages: Sequence[Message], seed: int) -> str:
    return OPTIONS[len(messages[-1]["content"]) % 2]


async def choose(row: dict[str, Any], ask: Ask) -> dict[str, Any]:
    if row["text"] == "":
        raise DropRow(DropReason.UNPARSABLE, "nothing to read")
    first, second = await ask.choose([{"role": "user", "content": row["text"]}], OPTIONS)
    return {"verdict": float(first > second)}


class NeverStarts(ScriptedBackend):
    async def start(self) -> None:
        raise ConfigError("no such model")


def job(kind: type[ScriptedBackend] = ScriptedBackend) -> ConversationJob:
    return ConversationJob(
        stage="reward",
        seed=0,
        schema=pa.schema([pa.field("verdict", pa.float64())]),
        converse=choose,
        expand=lambda rows: rows,
        make_backend=partial(kind, script),
        engine=EngineConfig(),
        expected_tokens=8,
    )


def rows(num: int) -> list[dict[str, Any]]:
    """Every seventh has nothing to read."""
    return [{"row_id": f"row {k}", "text": "" if k % 7 == 6 else "x" * k} for k in range(1, num + 1)]


def told(outcomes: Sequence[dict[str, Any]]) -> list[tuple[str, float | None]]:
    return [(one["row_id"], one["row"] and one["row"]["verdict"]) for one in outcomes]


def expected(asked: Sequence[dict[str, Any]]) -> list[tuple[str, float | None]]:
    return [(one["row_id"], float(len(one["text"]) % 2 == 0) if one["text"] else None) for one in asked]


@pytest.fixture
def engines(ray_session: None) -> Iterator[StandingEngines]:
    made = StandingEngines(job(), ModelConfig(), EnginesConfig(num_engines=2))
    made.start()
    yield made
    made.close()


def test_outcomes_come_in_order_from_all_engines_and_again_after_a_loss(engines: StandingEngines) -> None:
    import ray

    asked = rows(40)
    assert told(engines.submit(asked, [str(k // 3) for k in range(40)]).result()) == expected(asked)
    ray.kill(engines._actors[0], no_restart=False)
    assert told(engines.submit(asked, [str(k) for k in range(40)]).result()) == expected(asked)
    outcomes = engines.submit(asked, ["one"] * 40).result()
    assert dict(outcomes[0]["counters"])["num_requests"] == 1
    assert outcomes[5]["dropped"]["reason"] == DropReason.UNPARSABLE and outcomes[5]["row"] is None
    assert engines.submit([], []).result() == []
    engines.sleep()  # no GPU to leave
    engines.wake()


def test_an_engine_that_cannot_start_is_a_mistake_of_the_recipe(ray_session: None) -> None:
    made = StandingEngines(job(NeverStarts), ModelConfig(), EnginesConfig())
    try:
        with pytest.raises(ConfigError, match="no such model"):
            made.start()
    finally:
        made.close()
        made.close()
