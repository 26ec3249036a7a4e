"""A server that speaks the hub's API and keeps what it is sent in a folder: for pushes, without the hub.

Large files are `*.parquet` and `*.safetensors`, as the hub's own .gitattributes has it. What was asked is counted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_secretsecretsecretsecretsecret"
OWNERS = ("me", "lab")


@dataclass
class Hub:
    """What the server holds, and what was asked of it."""

    folder: Path
    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)  # "datasets/org/name" -> private
    objects: dict[str, bytes] = field(default_factory=dict)  # sha256 -> a large file
    uploads: Counter[str] = field(default_factory=Counter)  # sha256 -> times that it was sent whole
    commits: list[str] = field(default_factory=list)  # repository of each
    hang_from: int | None = None  # large files from this one on are never answered
    hung: threading.Event = field(default_factory=threading.Event)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # of repositories of others
    lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self, repo: str) -> list[str]:
        root = self.folder / repo
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, body: Any, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "Invalid username or password."}, 401)
        return False

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/").split("/")
        if path == ["api", "whoami-v2"]:
            if self._is_known():
                self._answer({"name": "me", "type": "user", "orgs": [{"name": "lab"}]})
            return
        repo = "/".join(path[1:4])
        if repo in self.hub.cards:
            self._answer({"id": "/".join(path[2:4]), "cardData": self.hub.cards[repo]})
        elif repo not in self.hub.repos or not self._is_known():
            self._answer({"error": "Repository not found"}, 404)
        elif path[4:5] == ["tree"]:
            names = self.hub.names(repo)
            self._answer([{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in names])
        else:
            siblings = [{"rfilename": name} for name in self.hub.names(repo)]
            body = {"id": "/".join(path[2:4]), "private": self.hub.repos[repo], "sha": "0" * 40, "siblings": siblings}
            self._answer(body)

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path.strip("/").split("/"), self._body()
        if path == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif not self._is_known():
            return
        elif path == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif path[-3:] == ["lfs", "objects", "batch"]:
            self._answer({"transfer": "basic", "objects": [self._object(one) for one in json.loads(body)["objects"]]})
        elif path[-1] == "verify":
            self._answer({}, 200 if json.loads(body)["oid"] in self.hub.objects else 404)
        elif path[4] == "preupload":
            repo = self.hub.folder / "/".join(path[1:4])
            self._answer({"files": [_mode(repo, one) for one in json.loads(body)["files"]]})
        elif path[4] == "commit":
            self._commit("/".join(path[1:4]), [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no {self.path}"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or "me"
        repo = f"{asked.get('type', 'model')}s/{owner}/{asked['name']}"
        if owner not in OWNERS:
            self._answer({"error": f"You don't have the rights to create a {asked['type']} under {owner!r}"}, 403)
            return
        is_new = repo not in self.hub.repos
        self.hub.repos.setdefault(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
        url = f"{self.hub.url}/{repo.removeprefix('models/')}"
        self._answer({"url": url, "name": f"{owner}/{asked['name']}"}, 200 if is_new else 409)

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.objects:
            return asked
        upload = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
        return {**asked, "actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}}

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rsplit("/", 1)[-1]
        with self.hub.lock:
            is_hung = self.hub.hang_from is not None and len(self.hub.objects) >= self.hub.hang_from
            if not is_hung:
                assert hashlib.sha256(content).hexdigest() == oid
                self.hub.objects[oid] = content
                self.hub.uploads[oid] += 1
        if is_hung:
            self.hub.hung.set()
            self.connection.settimeout(30)
            self.connection.recv(1)  # until the client is gone
            return
        self._answer({})

    def _commit_url(self, repo: str) -> str:
        return f"{self.hub.url}/{repo.removeprefix('models/')}/commit/{'0' * 40}"

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        self.hub.commits.append(repo)
        for line in lines[1:]:
            value, path = line["value"], self.hub.folder / repo / line["value"]["path"]
            if line["key"] == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            is_large = line["key"] == "lfsFile"
            path.write_bytes(self.hub.objects[value["oid"]] if is_large else base64.b64decode(value["content"]))
        self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": self._commit_url(repo)})


def _mode(repo: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """How a file is to be sent, and what the repository has under its name."""
    path, is_large = repo / asked["path"], asked["path"].endswith((".parquet", ".safetensors"))
    oid = None
    if path.is_file():
        content = path.read_bytes()
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)
        oid = (hashlib.sha256(content) if is_large else git).hexdigest()
    return {"path": asked["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}


@contextmanager
def hub_serving(folder: Path) -> Iterator[Hub]:
    """A hub at `.url`, with nothing in it."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
