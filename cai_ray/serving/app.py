"""The way of a request into one replica: the doorkeeper, the limits, its body prepared, then vLLM's application.

The doorkeeper decides before a byte of the body is read who may come in, and how many at once; it counts those
inside, so that a server that is to end can let them finish and lose none. Of vLLM's many routes only those named here
are open: the others would let a client past what `prepare` sees to, or at the engine's controls.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Counter
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cai_ray.serving.doorkeeper import Doorkeeper, too_large
from cai_ray.serving.prepare import Limits
from cai_ray.serving.refusals import ApiError, engine_dead

logger = logging.getLogger(__name__)
# (the body as vLLM gets it, control tokens defused)
Prepare = Callable[[dict[str, Any]], tuple[dict[str, Any], int]]
ALWAYS_OPEN = ("/v1/models", "/metrics", "/health")
DEFUSED = Counter("cai_ray_control_tokens_defused", "Control tokens spelt out in clients' messages and made harmless.")


def build_app(
    inner: ASGIApp, door: Doorkeeper, prepares: Mapping[str, Prepare | None], is_dead: Callable[[], bool]
) -> ASGIApp:
    """The application of one replica around `inner`, vLLM's; its engine is started already.

    `prepares` maps each open POST route to what prepares its body, None: as it came.
    """
    limits = door.face.limits

    async def health(scope: Scope, receive: Receive, send: Send) -> None:
        state = "draining" if door.is_draining else "engine dead" if is_dead() else "ok"
        await JSONResponse({"status": state}, 200 if state == "ok" else 503)(scope, receive, send)

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = scope["path"]
            if path not in (*prepares, *ALWAYS_OPEN) and not path.startswith("/v1/models/"):
                open_routes = ", ".join((*prepares, *ALWAYS_OPEN))
                raise ApiError(404, f"{scope['method']} {path}: not here; this server has {open_routes}")
            if is_dead():
                raise engine_dead()
            if scope["method"] == "POST":
                scope, receive = await _with_body(scope, receive, limits, prepares.get(path))
        except ApiError as error:
            await error.response(scope, receive, send)
            return
        await inner(scope, receive, send)

    guarded = door.guarding(_timed(admitted, limits.request_time_limit_s))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)  # the start and the end of the application itself
        elif scope["path"] == "/health":
            await health(scope, receive, send)
        else:
            await guarded(scope, receive, send)

    return app


async def _with_body(scope: Scope, receive: Receive, limits: Limits, prepare: Prepare | None) -> tuple[Scope, Receive]:
    """The request with its body read, at most so much as the limit, and prepared. Raises ApiError 413, 400."""
    body = await _body(Request(scope, receive), limits)
    if prepare is not None:
        data, num_defused = prepare(_object(body))
        if num_defused:
            DEFUSED.inc(num_defused)
            logger.info("%d control tokens defused in a client's messages", num_defused)
        body = json.dumps(data).encode()
    headers = [
        (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")
    ]
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def from_here() -> Message:
        return whole.pop() if whole else await receive()

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, from_here


async def _body(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limits.body_bytes:
                raise too_large(limits)
    except ClientDisconnect:
        raise ApiError(400, "the client left before its request was whole") from None
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = from_json(body)  # refuses lone surrogates and endless nesting, unlike the json module
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is a JSON {type(data).__name__}; send an object with `model`")
    return data


def _timed(app: ASGIApp, limit_s: float) -> ASGIApp:
    """`app`, ended after `limit_s` with a 504, or with an event where the answer has begun."""
    error = ApiError(504, f"not done within {limit_s:g} s; ask for fewer tokens", "timeout")

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with asyncio.timeout(limit_s):
                await app(scope, receive, noted)
        except TimeoutError:
            if not has_begun:
                await error.response(scope, receive, send)
            else:
                event = f"data: {json.dumps(error.body)}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": False})

    return timed
