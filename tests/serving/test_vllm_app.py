"""vLLM's application over one engine, as several recipes would have the same model served. No Ray, no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.models.reading import load_renderer
from cai_ray.serving.app import build_app
from cai_ray.serving.doorkeeper import Doorkeeper, Face
from cai_ray.serving.live_model import LiveModel, ready_to_serve
from cai_ray.serving.prepare import Limits
from cai_ray.serving.vllm_app import served_engine, speaking, vllm_app

pytestmark = [pytest.mark.slow, pytest.mark.long]
QUESTION = "How do I paint my garden chair?"
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
WITH_SYSTEM: list[Any] = [{"role": "system", "content": "Be brief."}, *ASKED]
BEGUN: list[Any] = [*ASKED, {"role": "assistant", "content": "To paint your garden chair, get"}]
SEVERAL: list[Any] = [*WITH_SYSTEM, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
GREEDY: dict[str, Any] = {"model": "micro", "temperature": 0, "max_tokens": 24}
LIMITS = Limits(max_tokens=64)


class Bench:
    """One engine, an event loop for it, and an application for each recipe that is asked for."""

    def __init__(self, folder: Path) -> None:
        model = ModelConfig(path=str(folder), engine={"max_num_seqs": 4, "kv_cache_gib": 0.5})
        self.runner = asyncio.Runner()
        self.live = LiveModel(served_engine(ready_to_serve(model), LIMITS))
        self.runner.run(self.live.start())

    def recipe(self, **changes: Any) -> LiveModel:
        """The same engine under another recipe."""
        model = ModelConfig.model_validate(self.live.model.model_dump() | changes)
        live = LiveModel(model)
        live._engine, live.max_model_len = self.live.engine, self.live.max_model_len
        return live

    def served(self, live: LiveModel) -> Callable[..., Any]:
        """A function that sends one chat completion request; a stream's chunks come as a list."""
        inner, prepares = self.runner.run(vllm_app(live, "micro", LIMITS, None))
        app = build_app(inner, Doorkeeper(Face(LIMITS, None, 8)), prepares, lambda: False)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=http)

        async def send(**request: Any) -> Any:
            answer = await client.chat.completions.create(**GREEDY | request)
            return [chunk async for chunk in answer] if request.get("stream") else answer

        return lambda **request: self.runner.run(send(**request))


@pytest.fixture(scope="module")
def bench(micro_model: Path) -> Iterator[Bench]:
    bench = Bench(micro_model)
    yield bench
    bench.live.close()
    bench.runner.close()


FOLDING = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}[assistant]"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + FOLDING


@pytest.mark.parametrize("format", ["chat", "transcript"])
@pytest.mark.parametrize("system_role", ["auto", "fold", "drop"])
@pytest.mark.parametrize("template", [None, NO_SYSTEM])
def test_the_prompt_is_the_recipes(
    bench: Bench, tmp_path: Path, format: str, system_role: str, template: str | None
) -> None:
    changes: dict[str, Any] = {"format": format, "system_role": system_role}
    if template is not None:
        (tmp_path / "template.jinja").write_text(template, encoding="utf-8")
        changes["chat_template"] = str(tmp_path / "template.jinja")
    live = bench.recipe(**changes)
    ask, renderer = bench.served(live), load_renderer(live.model)
    conversations = [ASKED, WITH_SYSTEM, SEVERAL, *([BEGUN] if template is None else [])]
    for messages in conversations:
        answer = ask(messages=messages, max_tokens=1, extra_body={"return_token_ids": True})
        assert answer.prompt_token_ids == renderer.encode(renderer.text(messages)), renderer.text(messages)


def test_a_transcript_ends_at_the_next_speaker(bench: Bench) -> None:
    ask = bench.served(bench.recipe(format="transcript"))
    answer = ask(messages=ASKED, max_tokens=64).choices[0].message.content
    assert answer.strip() and "Human:" not in answer
    with pytest.raises(openai.BadRequestError, match="a transcript has no role 'tool'"):
        ask(messages=[*ASKED, {"role": "tool", "content": "3", "tool_call_id": "a"}])


def test_thinking_is_parted_by_the_recipes_marks(bench: Bench) -> None:
    plain = bench.served(bench.live)(messages=ASKED).choices[0].message.content
    mark = plain.split()[3]
    before, _, behind = plain.partition(mark)
    thinking = {"open": "<hm>", "close": mark, "opened_by_template": True, "max_tokens": 8}
    ask = bench.served(bench.recipe(thinking=thinking))
    message = ask(messages=ASKED, max_tokens=16).choices[0].message  # with the thinking's own 8: 24 as above
    assert (message.reasoning.strip(), message.content) == (before.strip(), behind.strip())
    deltas = [chunk.choices[0].delta for chunk in ask(messages=ASKED, max_tokens=16, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == message.reasoning
    with pytest.raises(openai.BadRequestError, match="reasoning_parser=NAME"):
        ask(messages=ASKED, response_format={"type": "json_object"})


def test_the_terminal_hears_the_same_answer(bench: Bench) -> None:
    async def speak(live: LiveModel, messages: Sequence[Message]) -> str:
        answer = await speaking(live, {"max_tokens": 24, "temperature": 0, "seed": None})
        return "".join([piece async for piece in answer(messages)])

    plain = bench.served(bench.live)(messages=ASKED).choices[0].message.content
    assert bench.runner.run(speak(bench.live, ASKED)) == plain
    mark = plain.split()[3]
    thinking = {"close": mark, "opened_by_template": True, "max_tokens": 8}
    assert bench.runner.run(speak(bench.recipe(thinking=thinking), ASKED)).startswith(plain.partition(mark)[2].strip())
    transcript = bench.recipe(format="transcript")
    served = bench.served(transcript)(messages=ASKED).choices[0].message.content
    assert bench.runner.run(speak(transcript, ASKED)) == served
