"""Who may ask the server, how much at once, and how it ends without losing a request.

Tested in tests/serving/test_app.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cai_ray.serving.prepare import Limits
from cai_ray.serving.refusals import ApiError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
QUIET_S = 2.0  # so long nobody has knocked, before a drained server ends: clients hear why, not a closed connection


def token_digest(token: str) -> bytes:
    """What travels to the replicas in a token's place."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True)
class Face:
    """What the server asks of its clients."""

    limits: Limits
    digest: bytes | None  # of the token that clients present; None: loopback only, no token
    max_inside: int  # requests at once


class Doorkeeper:
    """Admits requests; one per replica, on the replica's event loop."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.is_draining = False
        self.num_inside = 0
        self._left = asyncio.Event()
        self._last_refusal = -math.inf  # while draining, by time.monotonic

    def check(self, request: Request) -> None:
        """Raises ApiError for a request that may not come in."""
        face = self.face
        if face.digest is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token_digest(token.strip()), face.digest):
                raise ApiError(401, "send this server's token as `Authorization: Bearer TOKEN`", "invalid_api_key")
        elif _host_name(request.headers.get("host", "")) not in LOCAL_NAMES:
            # A web page could otherwise reach in through a name of its own that resolves to this machine.
            raise ApiError(403, "without a token this server answers only to localhost, 127.0.0.1 and [::1]")
        if self.is_draining:
            self._last_refusal = time.monotonic()
            raise ApiError(503, "the server is about to end and takes no new requests", "draining", retry_after_s=5)
        if self.num_inside >= face.max_inside:
            message = f"{self.num_inside} requests are running or waiting, the most this server takes; try again later"
            raise ApiError(429, message, "too_many_requests", retry_after_s=1)
        if request.method == "POST":
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "send the body as `Content-Type: application/json`")
            length = request.headers.get("content-length", "")
            if length.isdecimal() and int(length) > face.limits.body_bytes:
                raise too_large(face.limits)

    async def drain(self, limit_s: float) -> int:
        """Take no new requests and wait until those inside are done, at most `limit_s`; how many are left.

        Newcomers are told so until none has come for QUIET_S, within the same limit.
        """
        self.is_draining = True
        started = time.monotonic()
        deadline = started + limit_s
        while self.num_inside and time.monotonic() < deadline:
            self._left.clear()
            try:
                await asyncio.wait_for(self._left.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        while (quiet_at := max(started, self._last_refusal) + QUIET_S) > time.monotonic() < deadline:
            await asyncio.sleep(min(quiet_at, deadline) - time.monotonic())
        return self.num_inside

    def guarding(self, app: ASGIApp) -> ASGIApp:
        """`app` behind this door."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                self.check(Request(scope))
            except ApiError as error:
                await error.response(scope, receive, send)
                return
            self.num_inside += 1
            try:
                await app(scope, receive, send)
            finally:
                self.num_inside -= 1
                self._left.set()

        return guarded


def _host_name(host: str) -> str:
    """ "[::1]:8000" -> "[::1]", "localhost:8000" -> "localhost"."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].lower()


def too_large(limits: Limits) -> ApiError:
    """For a body past the limit."""
    return ApiError(413, f"the body has more than the {limits.body_bytes} bytes that this server reads; send less")
