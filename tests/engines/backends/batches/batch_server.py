"""A server that takes batch files, in OpenAI's form, and answers their requests as a FakeServer does."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.field.server import FakeServer


@dataclass
class BatchServer:
    """What it does; may be changed while it runs.

    Attributes:
        model: answers each line.
        is_open: batches end only while this is set.
        lose: of each batch's requests, so many expire.
        refuse: why no batch is taken, as (code, message).
        paid: custom_id -> times that its request was answered well.
    """

    model: FakeServer
    url: str = ""
    is_open: threading.Event = field(default_factory=threading.Event)
    lose: int = 0
    refuse: tuple[str, str] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_file(self, content: bytes) -> dict[str, Any]:
        with self.lock:
            name = f"file-{len(self.files)}"
            self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "x",
            "purpose": "batch",
        }

    def add_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            name = f"batch-{len(self.batches)}"
            batch = {"id": name, "object": "batch", "status": "in_progress", "created_at": 0, **asked}
            self.batches[name] = batch
        return batch

    def look(self, name: str) -> dict[str, Any]:
        """A batch, which ends when it is looked at and may."""
        with self.lock:
            batch = self.batches[name]
            if batch["status"] == "in_progress" and self.is_open.is_set():
                self._end(batch)
            return batch

    def _end(self, batch: dict[str, Any]) -> None:
        if self.refuse is not None:
            code, message = self.refuse
            data = [{"code": code, "message": message, "line": None, "param": None}]
            batch |= {"status": "failed", "errors": {"object": "list", "data": data}}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        random.Random(batch["id"]).shuffle(lines)
        done, failed = [], []
        for number, line in enumerate(lines):
            assert line["url"] == batch["endpoint"] and line["method"] == "POST"
            about = {"id": f"r{number}", "custom_id": line["custom_id"]}
            if number < self.lose:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                failed.append({**about, "response": None, "error": error})
                continue
            status, body = self.model.answer(line["body"])
            response = {"status_code": status, "request_id": "q", "body": body}
            (done if status == 200 else failed).append({**about, "response": response, "error": None})
            if status == 200:
                self.paid[line["custom_id"]] = self.paid.get(line["custom_id"], 0) + 1
        batch["status"] = "expired" if self.lose else "completed"
        for key, found in (("output_file_id", done), ("error_file_id", failed)):
            batch[key] = self.add_file("".join(f"{json.dumps(x)}\n" for x in found).encode())["id"] if found else None

    @property
    def num_requests(self) -> list[int]:
        """Of each batch."""
        return [len(self.files[batch["input_file_id"]].splitlines()) for batch in self.batches.values()]


@contextmanager
def serving_batches(**settings: Any) -> Iterator[BatchServer]:
    state = BatchServer(FakeServer(**settings))
    state.is_open.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")[1:]
            if parts[0] == "models":
                self._say({"object": "list", "data": []})
            elif parts == ["batches"]:
                self._say({"object": "list", "data": list(state.batches.values()), "has_more": False})
            elif parts[0] == "batches":
                self._say(state.look(parts[1]))
            else:
                self._say(state.files[parts[1]])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/files"):
                boundary = self.headers["Content-Type"].split("boundary=")[1].encode()
                parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)]
                (content,) = [text for head, _, text in parts if b'name="file"' in head]
                self._say(state.add_file(content.removesuffix(b"\r\n")))
            elif self.path.endswith("/batches"):
                self._say(state.add_batch(json.loads(body)))
            else:
                self.send_error(400, "batches only")

        def _say(self, reply: Any) -> None:
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(200)
            kind = "application/octet-stream" if isinstance(reply, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
