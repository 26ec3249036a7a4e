"""The HTTP face, with a model that needs no engine, through the stock `openai` client where it can be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import httpx
import openai
import pytest

from cai_ray.chat import Message
from cai_ray.serving.app import build_app
from cai_ray.serving.doorkeeper import Doorkeeper, Face, token_digest
from cai_ray.serving.live_model import LiveModel
from cai_ray.serving.replies import Delta, TokenLogprob
from cai_ray.serving.requests import AnswerOptions, ApiError, Limits

ASKED: list[Any] = [{"role": "user", "content": "Hi"}]
TOKEN = "a-token-of-some-length"


class Parrot:
    """Says "one two three", or what a test has it do; stands in for LiveModel."""

    max_model_len = 512

    def __init__(
        self, kind: str = "chat", fails_at: int = -1, pace: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.kind, self.is_dead, self.num_closed = kind, False, 0
        self._fails_at, self._pace = fails_at, pace

    async def answer(
        self, messages: Sequence[Message], options: AnswerOptions, in_pieces: bool = True
    ) -> AsyncGenerator[Delta, None]:
        words = ["one", " two", " three"] if in_pieces else ["one two three"]
        try:
            for number, word in enumerate(words, 1):
                if number - 1 == self._fails_at:
                    raise ApiError(503, "the engine died", "engine_dead", retry_after_s=15)
                if self._pace is not None:
                    await self._pace()
                logprobs = None if options.top_logprobs is None else (TokenLogprob(word, -0.5, ((word, -0.5),)),)
                reason = "stop" if number == len(words) else None
                yield Delta(word, 5, 2, number, reason, logprobs)
        finally:
            self.num_closed += 1

    async def score(self, messages: Sequence[Message], answer: str) -> tuple[float, int]:
        return float(len(answer)), 9


def app_of(model: Parrot, token: str | None = None, max_inside: int = 8, **limits: Any) -> tuple[Any, Doorkeeper]:
    digest = token_digest(token) if token else None
    door = Doorkeeper(Face("parrot", Limits(**limits), digest, max_inside, created=1))
    return build_app(cast(LiveModel, model), door), door


def client(app: Any, key: str = "none", host: str = "localhost") -> openai.AsyncOpenAI:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return openai.AsyncOpenAI(
        base_url=f"http://{host}/v1", api_key=key, max_retries=0, http_client=httpx.AsyncClient(transport=transport)
    )


def ask(app: Any, **changes: Any) -> Any:
    key, host = changes.pop("key", "none"), changes.pop("host", "localhost")
    return asyncio.run(
        client(app, key, host).chat.completions.create(**{"model": "parrot", "messages": ASKED} | changes)
    )


def post(app: Any, path: str, **request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, False), base_url="http://127.0.0.1:80") as http:
            return await http.post(path, **request)

    return asyncio.run(send())


def test_plain() -> None:
    app, _ = app_of(Parrot())
    answer = ask(app, logprobs=True, top_logprobs=1)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 1, 6)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    token = answer.choices[0].logprobs.content[0]
    assert token.logprob == -0.5 and bytes(token.bytes).decode() == token.token == token.top_logprobs[0].token


async def pieces(app: Any, **changes: Any) -> list[Any]:
    stream = await client(app).chat.completions.create(
        **{"model": "parrot", "messages": ASKED, "stream": True} | changes
    )
    return [chunk async for chunk in stream]


def test_streaming() -> None:
    model = Parrot()
    app, door = app_of(model)
    chunks = asyncio.run(pieces(app, stream_options={"include_usage": True}))
    *spoken, counted = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == "one two three"
    assert spoken[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in spoken] == [None, None, None, "stop"]
    assert counted.choices == [] and counted.usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1
    assert (model.num_closed, door.num_inside) == (1, 0)


def test_an_error_before_the_first_word_is_a_status_and_later_an_event() -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        asyncio.run(pieces(app_of(Parrot(fails_at=0))[0]))
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "15"
    with pytest.raises(openai.APIError, match="the engine died"):
        asyncio.run(pieces(app_of(Parrot(fails_at=2))[0]))


def test_a_request_that_takes_too_long() -> None:
    app, _ = app_of(Parrot(pace=lambda: asyncio.sleep(30)), request_time_limit_s=0.05)
    with pytest.raises(openai.InternalServerError, match=r"not done within 0\.05 s"):
        ask(app)

    async def slow_after_the_first() -> None:
        await asyncio.sleep(0 if model.num_spoken == 0 else 30)
        model.num_spoken += 1

    model: Any = Parrot(pace=slow_after_the_first)
    model.num_spoken = 0
    with pytest.raises(openai.APIError, match="not done within"):
        asyncio.run(pieces(app_of(model, request_time_limit_s=0.05)[0]))
    assert model.num_closed == 1


def test_the_models() -> None:
    app, _ = app_of(Parrot())

    async def cards() -> tuple[list[Any], Any]:
        return [card async for card in client(app).models.list()], await client(app).models.retrieve("parrot")

    listed, one = asyncio.run(cards())
    assert [card.id for card in listed] == ["parrot"] == [one.id]


def test_unknown_model_and_route() -> None:
    app, _ = app_of(Parrot())
    with pytest.raises(openai.NotFoundError) as caught:
        ask(app, model="gpt")
    assert caught.value.code == "model_not_found" and "'parrot'" in str(caught.value)
    response = post(app, "/v1/embeddings", json={})
    assert response.status_code == 404 and "/v1/score" in response.json()["error"]["message"]


@pytest.mark.parametrize("key", ["wrong", "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü"])
def test_a_token_is_required(key: str) -> None:
    app, _ = app_of(Parrot(), TOKEN)
    headers = {"Authorization": b"Bearer " + key.encode()}
    response = post(app, "/v1/chat/completions", headers=headers, json={"model": "parrot", "messages": ASKED})
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert ask(app, key=TOKEN, host="elsewhere.example").choices


def test_health_needs_no_token_and_tells_of_a_dead_engine() -> None:
    model = Parrot()
    app, door = app_of(model, TOKEN)

    async def health() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as http:
            return await http.get("/health")

    assert asyncio.run(health()).json() == {"status": "ok"}
    model.is_dead = True
    assert asyncio.run(health()).status_code == 503
    model.is_dead, door.is_draining = False, True
    assert asyncio.run(health()).json() == {"status": "draining"}


def test_web_pages_cannot_reach_in() -> None:
    app, _ = app_of(Parrot())
    with pytest.raises(openai.PermissionDeniedError, match="only to localhost"):
        ask(app, host="evil.example")
    body = json.dumps({"model": "parrot", "messages": ASKED})
    response = post(app, "/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert ask(app, host="[::1]:8000").choices


def test_oversized_bodies() -> None:
    app, _ = app_of(Parrot(), body_bytes=2000)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(app, messages=[{"role": "user", "content": "x" * 2000}])
    assert caught.value.status_code == 413 and "2000 bytes" in str(caught.value)

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 500

    response = post(app, "/v1/chat/completions", content=unannounced(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413 and response.json()["error"]["type"] == "invalid_request_error"


def test_scores_and_answers_have_their_own_routes() -> None:
    scorer, _ = app_of(Parrot("score"))
    response = post(scorer, "/v1/score", json={"model": "parrot", "prompt": "Hi", "response": "Hello"})
    assert response.json()["score"] == 5.0 and response.json()["usage"]["prompt_tokens"] == 9
    with pytest.raises(openai.BadRequestError, match="use /v1/score"):
        ask(scorer)
    response = post(app_of(Parrot())[0], "/v1/score", json={"model": "parrot", "prompt": "Hi", "response": "Hello"})
    assert response.status_code == 400 and "use /v1/chat/completions" in response.json()["error"]["message"]


def test_a_bug_tells_the_client_nothing_of_the_inside() -> None:
    def broken() -> Awaitable[None]:
        raise RuntimeError("secret path")

    response = post(app_of(Parrot(pace=broken))[0], "/v1/chat/completions", json={"model": "parrot", "messages": ASKED})
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.slow
def test_too_many_at_once_and_a_drain_that_loses_none() -> None:
    async def scene() -> None:
        go = asyncio.Event()

        async def pace() -> None:
            await go.wait()

        app, door = app_of(Parrot(pace=pace), max_inside=6)
        one = client(app)
        asked: dict[str, Any] = {"model": "parrot", "messages": ASKED}
        inside = [asyncio.ensure_future(one.chat.completions.create(**asked, stream=k % 2 == 0)) for k in range(6)]
        while door.num_inside < 6:
            await asyncio.sleep(0.001)
        with pytest.raises(openai.RateLimitError, match="6 requests are running or waiting"):
            await one.chat.completions.create(**asked)
        draining = asyncio.ensure_future(door.drain(30))
        await asyncio.sleep(0)
        with pytest.raises(openai.InternalServerError) as caught:
            await one.chat.completions.create(**asked)
        assert caught.value.status_code == 503 and caught.value.code == "draining"
        assert not draining.done()
        go.set()
        assert await draining == 0
        for answer in await asyncio.gather(*inside):
            if hasattr(answer, "choices"):
                assert answer.choices[0].message.content == "one two three"
            else:
                assert [chunk async for chunk in answer][-1].choices[0].finish_reason == "stop"

    asyncio.run(scene())


def test_a_drain_ends_in_time() -> None:
    async def scene() -> int:
        app, door = app_of(Parrot(pace=lambda: asyncio.sleep(30)))
        asking = asyncio.ensure_future(client(app).chat.completions.create(model="parrot", messages=ASKED))
        while not door.num_inside:
            await asyncio.sleep(0.001)
        left = await door.drain(0.05)
        asking.cancel()
        return left

    assert asyncio.run(scene()) == 1
