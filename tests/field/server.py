"""A stand-in for an OpenAI-compatible server, on a port of its own: it answers, refuses, fails or hangs as told.

`python -m tests.field.server HOST PORT DELAY_S` serves by itself, on a host of tests/hosts.py, and says what it is
asked.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeServer:
    """What it does; may be changed while it runs.

    Attributes:
        text: every answer; the request's seed follows it, unless `says` is given.
        fail_after: from this request on the status is 503.
        hang_after: from this request on nothing is answered.
        refuse: parameters that are refused, with OpenAI's words.
        refuse_words: all requests are refused with these words.
        page: every reply is this web page, with the status 200.
        fail_on: a request with these words in it fails with the status 500, alone.
        is_told: each request goes to standard output, as a line of JSON, with its keys.
        delay_s: before each answer, seconds.
        favours: the likeliest token where log-probabilities are asked.
        num_asked: requests for an answer so far, refused ones too.
    """

    text: str = "A calm answer."
    fail_after: int | None = None
    hang_after: int | None = None
    refuse: tuple[str, ...] = ()
    refuse_words: str | None = None
    page: str | None = None
    fail_on: str | None = None
    is_told: bool = False
    delay_s: float = 0.0
    favours: str = "A"
    num_asked: int = 0
    num_answered: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        """(status, reply); a text is a web page."""
        with self._lock:
            self.num_asked += 1
            number = self.num_asked
            self.bodies.append(body)
        time.sleep(self.delay_s)
        if self.hang_after is not None and number > self.hang_after:
            time.sleep(3600)
        if self.page is not None:
            return 200, self.page
        if self.refuse_words is not None:
            return 400, _error(self.refuse_words)
        for name in self.refuse:
            if name in body:
                return 400, _error(f"Unsupported parameter: '{name}' is not supported with this model.", name)
        if self.fail_on is not None and self.fail_on in json.dumps(body):
            return 500, _error("this one breaks something here")
        if self.fail_after is not None and number > self.fail_after:
            return 503, _error("down for repairs")
        with self._lock:
            self.num_answered += 1
        return 200, self._completion(body)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        scored = None
        if body.get("logprobs"):
            other = "B" if self.favours == "A" else "A"
            tops = [{"token": t, "logprob": p, "bytes": None} for t, p in ((self.favours, -0.1), (other, -2.4))]
            scored = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None}
        words = f"{self.text} {body.get('seed', 0)}"
        message = {"role": "assistant", "content": self.favours if scored else words}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": scored, "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        }


def _error(message: str, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": None}}


@contextmanager
def serving(host: str = "127.0.0.1", port: int = 0, **settings: Any) -> Iterator[FakeServer]:
    """A FakeServer that answers at its `url` until the end of the block."""
    state = FakeServer(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def do_GET(self) -> None:
            self._say(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "t"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if state.is_told:
                keys = {name.lower(): self.headers.get(name) for name in ("Authorization", "X-Team")}
                told = json.dumps({**body, **keys})
                with state._lock:
                    print(told, flush=True)
            self._say(*state.answer(body))

        def _say(self, status: int, reply: dict[str, Any] | str) -> None:
            is_page = isinstance(reply, str)
            data = (reply if is_page else json.dumps(reply)).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if is_page else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer((host, port), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://{host}:{http.server_port}/v1"
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()


if __name__ == "__main__":
    with serving(sys.argv[1], int(sys.argv[2]), delay_s=float(sys.argv[3]), is_told=True):
        threading.Event().wait()
