"""The way in, before an application that needs no engine, through the stock `openai` client where it can be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cai_ray.serving.app import DEFUSED, build_app
from cai_ray.serving.doorkeeper import Doorkeeper, Face, token_digest
from cai_ray.serving.prepare import Limits
from cai_ray.serving.refusals import ApiError

ASKED: list[Any] = [{"role": "user", "content": "Hi"}]
TOKEN = "a-token-of-some-length"


class Parrot:
    """Says "one two three", or what a test has it do; stands in for vLLM's application."""

    def __init__(self, pace: Callable[[], Awaitable[None]] | None = None) -> None:
        self.is_dead, self.num_closed = False, 0
        self.bodies: list[Any] = []
        self._pace = pace
        routes = [Route("/v1/chat/completions", self._chat, methods=["POST"]), Route("/v1/models", self._models)]
        self.app = Starlette(routes=[*routes, Route("/v1/hidden", self._models)])

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def _chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        if self.bodies[-1].get("stream"):
            return StreamingResponse(self._events(), media_type="text/event-stream")
        spoken = [word async for word in self._words()]
        return JSONResponse(_reply("chat.completion", {"message": {"role": "assistant", "content": "".join(spoken)}}))

    async def _events(self) -> AsyncIterator[str]:
        async for word in self._words():
            yield f"data: {json.dumps(_reply('chat.completion.chunk', {'delta': {'content': word}}))}\n\n"
        yield "data: [DONE]\n\n"

    async def _words(self) -> AsyncIterator[str]:
        try:
            for word in ("one", " two", " three"):
                if self._pace is not None:
                    await self._pace()
                yield word
        finally:
            self.num_closed += 1


def _reply(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return {"id": "x", "object": kind, "created": 1, "model": "parrot", "choices": choices}


def prepare(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Refuses `n`, and counts as many control tokens as `seed` says."""
    if "n" in body:
        raise ApiError(400, "n: not here", param="n")
    return body | {"prepared": True}, body.get("seed", 0)


def app_of(parrot: Parrot, token: str | None = None, max_inside: int = 8, **limits: Any) -> tuple[Any, Doorkeeper]:
    door = Doorkeeper(Face(Limits(**limits), token_digest(token) if token else None, max_inside))
    return build_app(parrot.app, door, {"/v1/chat/completions": prepare}, lambda: parrot.is_dead), door


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


def test_a_body_is_prepared_and_counted() -> None:
    parrot = Parrot()
    app, _ = app_of(parrot)
    before = DEFUSED._value.get()
    assert ask(app, seed=3).choices[0].message.content == "one two three"
    assert parrot.bodies == [{"model": "parrot", "messages": ASKED, "seed": 3, "prepared": True}]
    assert DEFUSED._value.get() == before + 3
    with pytest.raises(openai.BadRequestError, match="n: not here") as caught:
        ask(app, n=2)
    assert caught.value.param == "n"


async def pieces(app: Any, **changes: Any) -> list[Any]:
    stream = await client(app).chat.completions.create(
        **{"model": "parrot", "messages": ASKED, "stream": True} | changes
    )
    return [chunk async for chunk in stream]


def test_streaming() -> None:
    parrot = Parrot()
    app, door = app_of(parrot)
    chunks = asyncio.run(pieces(app))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert (parrot.num_closed, door.num_inside) == (1, 0)


def test_a_request_that_takes_too_long() -> None:
    app, _ = app_of(Parrot(lambda: asyncio.sleep(30)), request_time_limit_s=0.05)
    with pytest.raises(openai.InternalServerError, match=r"not done within 0\.05 s"):
        ask(app)
    num_spoken = 0

    async def slow_after_the_first() -> None:
        nonlocal num_spoken
        num_spoken += 1
        await asyncio.sleep(0 if num_spoken == 1 else 30)

    parrot = Parrot(slow_after_the_first)
    with pytest.raises(openai.APIError, match="not done within"):
        asyncio.run(pieces(app_of(parrot, request_time_limit_s=0.3)[0]))
    assert parrot.num_closed == 1


def test_a_dead_engine_takes_no_request() -> None:
    parrot = Parrot()
    parrot.is_dead = True
    with pytest.raises(openai.InternalServerError) as caught:
        ask(app_of(parrot)[0])
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "15"
    assert parrot.bodies == []


def test_a_route_that_is_not_open() -> None:
    app, _ = app_of(Parrot())
    for path in ("/v1/hidden", "/v1/embeddings", "/", "/v1/chat/completions/"):
        response = post(app, path, json={})
        assert response.status_code == 404
        assert "this server has /v1/chat/completions, /v1/models" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_what_is_no_object(body: bytes) -> None:
    app, _ = app_of(Parrot())
    response = post(app, "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and "the body is" in response.json()["error"]["message"]


@pytest.mark.parametrize("key", ["wrong", "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü"])
def test_a_token_is_required(key: str) -> None:
    app, _ = app_of(Parrot(), TOKEN)
    headers = {"Authorization": b"Bearer " + key.encode()}
    response = post(app, "/v1/chat/completions", headers=headers, json={"model": "parrot", "messages": ASKED})
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert ask(app, key=TOKEN, host="elsewhere.example").choices


def test_health_needs_no_token_and_tells_of_a_dead_engine() -> None:
    parrot = Parrot()
    app, door = app_of(parrot, TOKEN)

    async def health() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as http:
            return await http.get("/health")

    assert asyncio.run(health()).json() == {"status": "ok"}
    parrot.is_dead = True
    assert asyncio.run(health()).status_code == 503
    parrot.is_dead, door.is_draining = False, True
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


@pytest.mark.slow
def test_too_many_at_once_and_a_drain_that_loses_none() -> None:
    async def scene() -> None:
        go = asyncio.Event()

        async def pace() -> None:
            await go.wait()

        app, door = app_of(Parrot(pace), max_inside=6)
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
        app, door = app_of(Parrot(lambda: asyncio.sleep(30)))
        asking = asyncio.ensure_future(client(app).chat.completions.create(model="parrot", messages=ASKED))
        while not door.num_inside:
            await asyncio.sleep(0.001)
        left = await door.drain(0.05)
        asking.cancel()
        return left

    assert asyncio.run(scene()) == 1
