"""An object store on this machine: as much of S3 as reading a file and saying its ETag takes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse


@contextmanager
def object_store(folder: Path, bucket: str = "bucket") -> Iterator[str]:
    """Serve the files of `folder` as the objects of a bucket; a pattern for URIs, with {} for the object's name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            url = urlparse(self.path)
            file = folder / url.path.removeprefix(f"/{bucket}").lstrip("/")
            found = file.is_file()
            body = file.read_bytes() if found else b""
            tag, asked = hashlib.md5(body).hexdigest(), self.headers.get("Range")
            if asked:
                start, end = asked.removeprefix("bytes=").split("-")
                body = body[int(start) : int(end) + 1]
            self.send_response(404 if not found else 206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Fri, 27 Nov 2026 06:00:00 GMT")
            self.send_header("ETag", f'"{tag}"')
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        yield f"s3://key:secret@{bucket}/{{}}?{where}"
    finally:
        server.shutdown()
        server.server_close()
