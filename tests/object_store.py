"""An object store on this machine: as much of S3 as small files take that are written, listed, read and deleted."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse


def _joined(stream: io.BufferedIOBase) -> bytes:
    """A body that comes in chunks, each after a line with its size; S3's own form and HTTP's."""
    found = b""
    while size := int(stream.readline().split(b";")[0], 16):
        found += stream.read(size)
        stream.readline()
    while stream.readline().strip():  # checksums
        pass
    return found


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

        def do_PUT(self) -> None:
            is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
            sent = _joined(self.rfile) if is_chunked else self.rfile.read(int(self.headers["Content-Length"]))
            content = _joined(io.BytesIO(sent)) if "aws-chunked" in self.headers.get("Content-Encoding", "") else sent
            file = self._file
            if not urlparse(self.path).path.endswith("/"):  # a marker of a folder, which a disk has anyway
                file.parent.mkdir(parents=True, exist_ok=True)
                whole = file.with_name(f".{threading.get_ident()}-{file.name}")
                whole.write_bytes(content)
                whole.rename(file)
            self._say(200, b"", with_body=True, ETag=f'"{hashlib.md5(content).hexdigest()}"')

        def do_DELETE(self) -> None:
            if self._file.is_file():
                self._file.unlink()
            self._say(204, b"", with_body=True)

        @property
        def _file(self) -> Path:
            return folder / urlparse(self.path).path.removeprefix(f"/{bucket}").lstrip("/")

        def _list(self, query: dict[str, list[str]]) -> None:
            prefix = query.get("prefix", [""])[0]
            files = [f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")]
            names = sorted(name for f in files if (name := f.relative_to(folder).as_posix()).startswith(prefix))
            deep = {f"{prefix}{rest.split('/')[0]}/" for n in names if "/" in (rest := n.removeprefix(prefix))}
            flat = "delimiter" in query
            found = "".join(
                f"<Contents><Key>{name}</Key><Size>{(folder / name).stat().st_size}</Size>"
                "<LastModified>2026-11-27T06:00:00.000Z</LastModified></Contents>"
                for name in names
                if not (flat and "/" in name.removeprefix(prefix))
            ) + "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in sorted(deep) if flat)
            body = f"<ListBucketResult><KeyCount>{len(names)}</KeyCount>{found}</ListBucketResult>"
            self._say(200, body.encode(), with_body=True)

        def _say(self, status: int, body: bytes, with_body: bool, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _answer(self, with_body: bool) -> None:
            query = parse_qs(urlparse(self.path).query)
            if "list-type" in query:
                self._list(query)
                return
            found = self._file.is_file()
            body = self._file.read_bytes() if found else b""
            tag, asked = hashlib.md5(body).hexdigest(), self.headers.get("Range")
            if asked:
                start, end = asked.removeprefix("bytes=").split("-")
                body = body[int(start) : int(end) + 1]
            status = 404 if not found else 206 if asked else 200
            self._say(status, body, with_body, Last_Modified="Fri, 27 Nov 2026 06:00:00 GMT", ETag=f'"{tag}"')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        yield f"s3://key:secret@{bucket}/{{}}?{where}"
    finally:
        server.shutdown()
        server.server_close()
