"""A reasoning model that answers at once: the answer's own budget and stop strings hold, in engine and endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cai_ray.chat import Renderer
from cai_ray.config import EndpointConfig, ModelConfig, SamplingConfig, ThinkingConfig
from cai_ray.engines.backends import vllm_backend
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.vllm_backend import VllmConversation
from cai_ray.engines.conversations.asking import Completion
from tests.tiny_models import byte_tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Good day to you, friend. ## And then more of it"
THINKING = ThinkingConfig(max_tokens=3)


async def unguarded(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


class ScriptedEngine:
    """What VllmConversation needs of its backend: says `text`, or behind a closed thought `answer`, byte by byte."""

    max_model_len = 4096

    def __init__(self, text: str, answer: str = "") -> None:
        self.renderer = Renderer(byte_tokenizer())
        self.model = ModelConfig(thinking=THINKING)
        self.said, self.answer = text, answer
        self.asked: list[Any] = []

    async def generate(self, ids: list[int], params: Any, request_id: str) -> Any:
        self.asked.append(params)
        prompt = self.renderer.tokenizer.decode(ids)
        whole = self.answer if "</think>" in prompt else self.said
        stops = [(whole.find(stop), stop) for stop in params.stop if stop in whole[: params.max_tokens]]
        if stops:
            at, reason = min(stops)
            text, finish = whole[:at], "stop"
        else:
            text, reason = whole[: params.max_tokens], None
            finish = "stop" if len(whole) < params.max_tokens else "length"
        output = SimpleNamespace(
            text=text, token_ids=[*text.encode()], finish_reason=finish, stop_reason=reason, logprobs=None
        )
        return SimpleNamespace(outputs=[output], num_cached_tokens=0)


@pytest.fixture(autouse=True)
def plain_params(monkeypatch: pytest.MonkeyPatch) -> None:
    def params(sampling: SamplingConfig, room: int, **options: Any) -> Any:
        return SimpleNamespace(max_tokens=min(sampling.max_tokens, room), **options)

    monkeypatch.setattr(vllm_backend, "request_params", params)


def engine_says(engine: ScriptedEngine, **sampling: Any) -> Completion:
    backend: Any = engine
    conversation = VllmConversation(backend, "row", lambda number: number, unguarded)
    return asyncio.run(conversation(HELLO, SamplingConfig(**sampling)))


def test_the_thinking_budget_cuts_no_answer() -> None:
    found = engine_says(ScriptedEngine(ANSWER), max_tokens=200)
    assert (found.text, found.thinking, found.finish_reason) == (ANSWER, None, "stop")


def test_stop_strings_and_budget_hold_for_an_answer_at_once() -> None:
    found = engine_says(ScriptedEngine(ANSWER), max_tokens=200, stop=("##",))
    assert (found.text, found.finish_reason) == ("Good day to you, friend.", "stop")
    found = engine_says(ScriptedEngine(ANSWER), max_tokens=8)
    assert (found.text, found.finish_reason) == ("Good day", "length")


def test_a_short_answer_costs_one_request() -> None:
    engine = ScriptedEngine("Hi.")
    assert engine_says(engine, max_tokens=200).text == "Hi." and len(engine.asked) == 1


def test_stop_strings_end_no_thought() -> None:
    found = engine_says(ScriptedEngine("<think>a##b</think>", "Hi. ## more"), max_tokens=200, stop=("##",))
    assert found.text == "Hi." and found.thinking is not None


def test_the_same_seed_asks_again() -> None:
    engine = ScriptedEngine(ANSWER)
    engine_says(engine, max_tokens=200)
    assert len({params.seed for params in engine.asked}) == 1


def endpoint_says(texts: list[str], thinking: ThinkingConfig | None, **sampling: Any) -> tuple[Completion, list[Any]]:
    asked: list[Any] = []

    async def create(**options: Any) -> Any:
        asked.append(options)
        text = texts[min(len(asked), len(texts)) - 1]
        most = options["max_tokens"]
        cut = text[:most]
        message = SimpleNamespace(content=cut)
        choice = SimpleNamespace(message=message, finish_reason="length" if len(text) > most else "stop")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=len(cut), prompt_tokens=1))

    endpoint = EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m")
    backend = EndpointBackend(ModelConfig(endpoint=endpoint, thinking=thinking, chat_template_kwargs={"deep": True}))
    backend.client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    conversation = backend.open("row", lambda number: number, unguarded)
    return asyncio.run(conversation(HELLO, SamplingConfig(**sampling))), asked


def test_an_endpoint_holds_the_answers_budget() -> None:
    found, asked = endpoint_says([ANSWER], ThinkingConfig(max_tokens=20), max_tokens=8)
    assert (found.text, found.finish_reason) == ("Good day", "length")
    assert [options["max_tokens"] for options in asked] == [28, 8]


def test_an_endpoint_holds_stop_strings() -> None:
    found, asked = endpoint_says(["<think>a##b</think>Hi. ## more"], THINKING, max_tokens=200, stop=("##",))
    assert (found.thinking, found.text) == ("a##b", "Hi.") and "stop" not in asked[0]
    assert endpoint_says(["Hi. ## more"], THINKING, max_tokens=200, stop=("##",))[0].text == "Hi."


def test_a_models_template_variables_reach_the_server() -> None:
    _, asked = endpoint_says(["Hi."], None, max_tokens=8)
    assert asked[0]["extra_body"] == {"chat_template_kwargs": {"deep": True}}
