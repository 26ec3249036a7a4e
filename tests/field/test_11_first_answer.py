"""A model that thinks, or does not, whatever the recipe says: one short answer is held against it before all others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.chat import Message
from cai_ray.config import EndpointConfig, EngineConfig, ModelConfig, SamplingConfig, ThinkingConfig
from cai_ray.engines.backends import vllm_backend
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.engines.backends.vllm_backend import VllmBackend
from cai_ray.engines.conversations.asking import Ask, Guard
from cai_ray.engines.conversations.ending import parted, raise_first
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.models.thinking import Doubt, check_first_answer, may_think
from cai_ray.errors import ConfigError
from tests.prompt_formats import FORMATS

THINKS = ThinkingConfig()
IN_THOUGHT = ThinkingConfig(opened_by_template=True)
THOUGHT, PLAIN = "<think>\n17 and 25 ...", "42."


def verdict(said: ThinkingConfig | None, text: str, is_whole: bool = True) -> Doubt | None:
    return check_first_answer("some/model", said, text, is_whole)


@pytest.mark.parametrize(
    ("said", "text", "lines"),
    [
        (None, THOUGHT, "    thinking: {}\n"),
        (None, "\n[THINK]17 and", "    thinking: {open: '[THINK]', close: '[/THINK]'}\n"),
        (THINKS, "<thinking>17 and", "    thinking: {open: '<thinking>', close: '</thinking>'}\n"),
        (
            IN_THOUGHT,
            "17 and 25 are</thinking>42",
            "    thinking: {opened_by_template: true, open: '<thinking>', close: '</thinking>'}\n",
        ),
        (ThinkingConfig(open="<hm>", close="</hm>"), THOUGHT, "    thinking: {}\n"),
    ],
)
def test_a_contradiction_comes_with_the_line_to_write(said: ThinkingConfig | None, text: str, lines: str) -> None:
    with pytest.raises(ConfigError) as refused:
        verdict(said, text)
    assert "the model at 'some/model' thinks aloud" in str(refused.value)
    assert f"Write under its name in `models`\n{lines}" in str(refused.value)


def test_what_agrees_or_leaves_a_doubt() -> None:
    assert verdict(None, PLAIN) is None
    assert verdict(None, "I think <think> is a mark.") is None
    assert verdict(THINKS, THOUGHT) is None
    assert verdict(THINKS, PLAIN) == Doubt.AT_ONCE
    assert verdict(IN_THOUGHT, "17 and 25 are</think>42") is None
    assert verdict(IN_THOUGHT, "17 and 25 are, hm,", is_whole=False) is None  # a long thought
    assert verdict(IN_THOUGHT, PLAIN) == Doubt.NOT_CLOSED


def test_who_is_asked_at_all() -> None:
    asked = {name for name in FORMATS if may_think(ModelConfig(), FORMATS[name].renderer())}
    assert asked == {"qwen3"}  # its template knows a thought's marks
    assert may_think(ModelConfig(thinking=THINKS), FORMATS["llama"].renderer())


# --- Engines and servers ------------------------------------------------------------------------------


async def unguarded(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


class Engine(VllmBackend):
    """A VllmBackend around an engine that says `text`, byte by byte."""

    def __init__(self, text: str, thinking: ThinkingConfig | None) -> None:
        self.renderer = FORMATS["qwen3"].renderer()
        self.model = ModelConfig(path="some/model", thinking=thinking)
        self.text = text

    async def generate(self, ids: Any, params: Any, request_id: str) -> Any:
        output = SimpleNamespace(token_ids=self.renderer.encode(self.text), finish_reason="stop")
        return SimpleNamespace(outputs=[output])


def test_an_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_backend, "request_params", lambda sampling, room: None)
    assert asyncio.run(Engine(PLAIN, None).first_answer(unguarded)) is None
    assert asyncio.run(Engine(PLAIN, THINKS).first_answer(unguarded)) == Doubt.AT_ONCE
    with pytest.raises(ConfigError, match="thinks aloud"):
        asyncio.run(Engine(THOUGHT, None).first_answer(unguarded))


@pytest.mark.parametrize(
    ("thinking", "message", "doubt"),
    [
        (None, None, None),  # nobody is asked
        (THINKS, {"content": PLAIN}, Doubt.AT_ONCE),
        (THINKS, {"content": THOUGHT}, None),
        (THINKS, {"content": PLAIN, "reasoning_content": "17 and 25"}, None),
    ],
)
def test_a_server_is_asked_where_the_recipe_says_that_it_thinks(thinking: Any, message: Any, doubt: Any) -> None:
    model = ModelConfig(
        thinking=thinking,
        chat_template_kwargs={"enable_thinking": True},
        endpoint=EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m"),
    )
    backend = EndpointBackend(model)
    asked: list[dict[str, Any]] = []

    async def create(**options: Any) -> Any:
        asked.append(options)
        said = SimpleNamespace(**{"reasoning_content": None, "reasoning": None, **message})
        return SimpleNamespace(choices=[SimpleNamespace(message=said, finish_reason="stop")], usage=None)

    backend.client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    assert asyncio.run(backend.first_answer(unguarded)) == doubt
    assert len(asked) == (thinking is not None)
    assert all(one["extra_body"] == {"chat_template_kwargs": {"enable_thinking": True}} for one in asked)


# --- Before a stage asks all --------------------------------------------------------------------------


class Thinker(ScriptedBackend):
    """Counts who asks, and in which order."""

    def __init__(self, said: ThinkingConfig | None, text: str) -> None:
        super().__init__(self._answer)
        self.said, self.text = said, text
        self.asked: list[str] = []

    def _answer(self, row_id: str, messages: Any, seed: int) -> str:
        self.asked.append(row_id)
        return PLAIN

    async def first_answer(self, guard: Guard) -> str | None:
        async def send() -> str:
            self.asked.append("first")
            return self.text

        return check_first_answer("some/model", self.said, await guard(send), is_whole=True)


def outcomes(backend: Thinker) -> pa.Table:
    """Of four rows in two batches that come at once."""

    async def converse(row: dict[str, Any], ask: Ask) -> dict[str, Any]:
        asked: list[Message] = [{"role": "user", "content": row["row_id"]}]
        return {"id": (await ask(asked, SamplingConfig())).text}

    job = ConversationJob(
        stage="test",
        seed=0,
        schema=pa.schema([("id", pa.string())]),
        converse=converse,
        expand=lambda table: table,
        make_backend=lambda: backend,
        engine=EngineConfig(),
        expected_tokens=8,
    )

    async def all_batches() -> pa.Table:
        actor = ConversationActor(job)

        async def batch(*ids: str) -> list[pa.Table]:
            return [table async for table in actor(pa.table({"row_id": list(ids)}))]

        found = await asyncio.gather(batch("a", "b"), batch("c", "d"))
        return pa.concat_tables([table for tables in found for table in tables])

    return asyncio.run(all_batches())


def test_a_contradiction_ends_the_stage_before_a_row_is_asked() -> None:
    backend = Thinker(None, THOUGHT)
    done, endings = parted(outcomes(backend))
    assert done.num_rows == 0 and backend.asked == ["first"]
    with pytest.raises(ConfigError, match="thinks aloud"):
        raise_first(endings)


def test_a_doubt_is_counted_once_and_the_rows_go_on() -> None:
    backend = Thinker(THINKS, PLAIN)
    done, endings = parted(outcomes(backend))
    assert not endings and done.num_rows == 4
    assert backend.asked[0] == "first" and backend.asked.count("first") == 1
    counted = [dict(counters).get(Doubt.AT_ONCE, 0) for counters in done["counters"].to_pylist()]
    assert sum(counted) == 1
