"""The HTTP face of one live model: an ASGI application with OpenAI's routes, a doorkeeper before them.

The doorkeeper decides before a byte of the body is read who may come in, and how many at once; it counts those
inside, so that a server that is to end can let them finish and lose none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cai_ray.serving.doorkeeper import Doorkeeper, Face, _refusal, _too_large
from cai_ray.serving.live_model import LiveModel
from cai_ray.serving.replies import STREAM_END, Delta, Reply, event
from cai_ray.serving.requests import ApiError, ChatRequest, Limits, ScoreRequest, read_request

logger = logging.getLogger(__name__)
Handler = Callable[[Request], Awaitable[Response]]


def build_app(model: LiveModel, door: Doorkeeper) -> Starlette:
    """The application of one replica; the model is started already."""
    face = door.face

    async def health(request: Request) -> Response:
        state = "draining" if door.is_draining else "engine dead" if model.is_dead else "ok"
        return JSONResponse({"status": state}, status_code=200 if state == "ok" else 503)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(model, face)]})

    async def one_model(request: Request) -> Response:
        _check_name(request.path_params["name"], face)
        return JSONResponse(_card(model, face))

    async def chat(request: Request) -> Response:
        asked = read_request(ChatRequest, await _body(request, face.limits))
        _check_name(asked.model, face)
        _check_kind(model, "chat")
        options = asked.options(face.limits)
        reply = Reply(f"chatcmpl-{uuid4().hex}", face.name, int(time.time()))
        answer = model.answer(asked.plain_messages, options, in_pieces=asked.stream)
        if not asked.stream:
            whole = [delta async for delta in answer]
            return JSONResponse(reply.completion(whole[-1]))
        first = await anext(answer)  # so that what is wrong with the request is still told by the status
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = _events(reply, first, answer, with_usage, face.limits.request_time_limit_s)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def score(request: Request) -> Response:
        asked = read_request(ScoreRequest, await _body(request, face.limits))
        _check_name(asked.model, face)
        _check_kind(model, "score")
        value, num_tokens = await model.score(*asked.conversation)
        return JSONResponse(Reply(f"score-{uuid4().hex}", face.name, int(time.time())).score(value, num_tokens))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", _timed(chat, face.limits), methods=["POST"]),
            Route("/v1/score", _timed(score, face.limits), methods=["POST"]),
        ],
        middleware=[Middleware(door.guarding)],
        exception_handlers={ApiError: _tell, HTTPException: _tell_http, Exception: _tell_bug},
    )


async def _events(
    reply: Reply, first: Delta, rest: AsyncGenerator[Delta, None], with_usage: bool, limit_s: float
) -> AsyncIterator[bytes]:
    """The server-sent events of one answer; an error in mid-answer is an event too, for its status has been sent."""
    deadline = asyncio.get_running_loop().time() + limit_s
    last = first
    yield reply.first_chunk() + reply.chunk(first)
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                delta = await anext(rest, None)
            if delta is None:
                break
            last = delta
            yield reply.chunk(delta)
    except ApiError as error:
        yield event(error.body)
    except TimeoutError:
        yield event(_timeout(limit_s).body)
    else:
        yield (reply.usage_chunk(last) if with_usage else b"") + STREAM_END
    finally:
        await rest.aclose()  # ends the request in the engine when the client left


def _timed(handler: Handler, limits: Limits) -> Handler:
    async def timed(request: Request) -> Response:
        try:
            async with asyncio.timeout(limits.request_time_limit_s):
                return await handler(request)
        except TimeoutError:
            raise _timeout(limits.request_time_limit_s) from None

    return timed


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, of which no more is read than the limit. Raises ApiError 413."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limits.body_bytes:
                raise _too_large(limits)
    except ClientDisconnect:
        raise ApiError(400, "the client left before its request was whole") from None
    return bytes(body)


def _card(model: LiveModel, face: Face) -> dict[str, Any]:
    return {
        "id": face.name,
        "object": "model",
        "created": face.created,
        "owned_by": "cai_ray",
        "kind": model.kind,
        "max_model_len": model.max_model_len,
    }


def _check_name(name: str, face: Face) -> None:
    if name != face.name:
        raise ApiError(404, f"model {name!r} is not served here; this is {face.name!r}", "model_not_found", "model")


def _check_kind(model: LiveModel, kind: str) -> None:
    if model.kind != kind:
        use = "/v1/score" if model.kind == "score" else "/v1/chat/completions"
        what = "scores answers" if model.kind == "score" else "answers messages"
        raise ApiError(400, f"the model served here {what}: use {use}", "wrong_endpoint")


def _timeout(limit_s: float) -> ApiError:
    return ApiError(504, f"not done within {limit_s:g} s; ask for fewer tokens", "timeout")


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refusal(error)


async def _tell_http(request: Request, error: Exception) -> Response:
    """No such route, or another method."""
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.url.path}: {error.detail}; see /v1/models, /v1/chat/completions, /v1/score"
    return _refusal(ApiError(error.status_code, told))


async def _tell_bug(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return _refusal(ApiError(500, "the server failed on this request; its log says why"))
