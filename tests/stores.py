"""Object stores on this machine for whole runs: S3 (moto), Google's (gcp-storage-emulator), Azure's (azurite).

Each yields a URI of an empty folder, which a recipe's `output` takes as it is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import logging
import random
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow.fs as pafs
import pytest

from tests.runs import free_port, wait_for

BUCKET = "bucket"
# Azurite's own, published.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FAILURES = ("before", "after", "cut")
Start = Callable[..., Any]


@dataclass
class Faults:
    """What the S3 server does to its calls; may be changed while it runs.

    Attributes:
        share: of calls that fail: refused before anything is done, an error after it was done, or cut off, by turns.
        is_away: every call is refused.
        calls: by HTTP method and kind, those that were refused left out.
    """

    share: float = 0.0
    is_away: bool = False
    num_failed: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    uri: str = ""
    _kinds: Iterator[str] = field(default_factory=lambda: itertools.cycle(FAILURES))
    _chance: random.Random = field(default_factory=lambda: random.Random(0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_failure(self, call: str) -> str | None:
        with self._lock:
            if self.is_away:
                return "before"
            failing = self._chance.random() < self.share
            self.num_failed += failing
            self.calls[call] += 1
            return next(self._kinds) if failing else None


def _failing(application: Any, faults: Faults) -> Any:
    def serve(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        query = environ["QUERY_STRING"]
        kind = faults.next_failure(f"{environ['REQUEST_METHOD']}{' multipart' if 'upload' in query else ''}")
        if kind == "before":
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if kind is None:
            return application(environ, start)  # type: ignore[no-any-return]
        b"".join(application(environ, lambda *_: lambda _: None))
        if kind == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return [b""]
        start("500 Internal Error", [("Content-Type", "application/xml")])
        return [b"<Error><Code>InternalError</Code><Message>after the fact</Message></Error>"]

    return serve


@contextmanager
def s3() -> Iterator[Faults]:
    moto = pytest.importorskip("moto.server", reason="make setup installs moto")
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faults = Faults()
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = make_server("127.0.0.1", 0, _failing(application, faults), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"127.0.0.1:{server.server_port}"
    # What an earlier server of this process held is there still.
    for path, method in (("moto-api/reset", "POST"), (BUCKET, "PUT")):
        urllib.request.urlopen(urllib.request.Request(f"http://{where}/{path}", method=method)).close()
    faults.calls.clear()
    faults.uri = f"s3://key:secret@{BUCKET}/runs?scheme=http&endpoint_override={where}&region=us-east-1"
    try:
        yield faults
    finally:
        server.shutdown()


@contextmanager
def gcs() -> Iterator[str]:
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="make setup installs it")
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield f"gs://anonymous@{BUCKET}/runs?scheme=http&endpoint_override=127.0.0.1%3A{port}"
    finally:
        server.stop()


@contextmanager
def azure(folder: Path) -> Iterator[str]:
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("azurite is not installed; npm install --global azurite does it")
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    options += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen([azurite, *options], stdout=subprocess.DEVNULL)
    try:
        where = f"127.0.0.1:{port}/{BUCKET}"
        uri = f"abfs://{ACCOUNT}@{where}/runs?enable_tls=false&{_signature()}"
        wait_for(lambda: _answers(port), 30, "azurite")
        pafs.FileSystem.from_uri(uri)[0].create_dir(BUCKET)
        yield uri
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _signature() -> str:
    """A shared access signature: all of it on containers and blobs, for long."""
    asked = {"sv": "2020-12-06", "ss": "b", "srt": "sco", "sp": "rwdlacup", "se": "2046-01-01T00:00:00Z"}
    asked["spr"] = "https,http"
    lines = (ACCOUNT, asked["sp"], asked["ss"], asked["srt"], "", asked["se"], "", asked["spr"], asked["sv"], "", "")
    signed = hmac.new(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return urlencode({**asked, "sig": base64.b64encode(signed).decode()})
