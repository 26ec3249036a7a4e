"""A folder on any pyarrow filesystem: a local path, s3://, gs://, hdfs:// ...

Writes are atomic: locally a temporary name, fsync and a rename; on an object store one PUT, which either
happens or does not. A URI's query belongs to the file system and not to the path: it stays behind whatever is
appended.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from cai_ray.artifacts.persistence import persistently
from cai_ray.errors import ConfigError, StorageAway
from cai_ray.lookup import without_keys

T = TypeVar("T")
TEMPORARY_PREFIX = ".tmp-"
AZURE = "abfs"  # pyarrow's name of its file system
# S3 only: a small file is then one PUT, and not a multipart upload, which a killed writer leaves pending.
ONE_PUT = "allow_delayed_open"


def is_uri(location: str) -> bool:
    """Whether `location` names a file system. One letter before the colon is a Windows drive."""
    return len(urlsplit(location).scheme) > 1


def appended(location: str, name: str) -> str:
    """The location of `name` in the folder `location`; a URI's query stays at the end."""
    base, mark, query = location.partition("?") if is_uri(location) else (location, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def shown(location: str) -> str:
    """A location for people and logs: keys in a URI's user part or query are left out."""
    if not is_uri(location):
        return location
    parts = urlsplit(without_keys(location))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def name_of(location: str) -> str:
    """The last part of a location, for people."""
    return PurePosixPath(shown(location)).name


@dataclass(frozen=True)
class Storage:
    """A folder by its location; picklable, so that workers open it themselves."""

    location: str

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if is_uri(self.location):
            try:
                return pafs.FileSystem.from_uri(_in_one_put(_without_local_query(self.location)))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                raise ConfigError(f"output {self.shown!r} is not a location pyarrow knows: {error}") from error
        return pafs.LocalFileSystem(), str(Path(self.location).expanduser().absolute())

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def __truediv__(self, name: str) -> Storage:
        return Storage(appended(self.location, name))

    @property
    def shown(self) -> str:
        """Its location for people: without keys."""
        return shown(self.location)

    def path(self, name: str = "") -> str:
        """The path of `name` within the filesystem (no scheme)."""
        return f"{self._opened[1].rstrip('/')}/{name}" if name else self._opened[1]

    def persistently(self, call: Callable[[], T]) -> T:
        """What `call` returns, made again while an object store fails in passing. Raises StorageAway."""
        return call() if self.is_local else persistently(call, self.shown)

    def _infos(self, folder: str = "") -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        infos: list[pafs.FileInfo] = self.persistently(lambda: self.filesystem.get_file_info(selector))
        return infos

    def _info(self, name: str) -> pafs.FileInfo:
        return self.persistently(lambda: self.filesystem.get_file_info(self.path(name)))

    def make(self) -> None:
        """Create the folder, and prove that it can be written. Raises ConfigError when it cannot, StorageAway."""
        try:
            self.persistently(lambda: self.filesystem.create_dir(self.path(), recursive=True))
            probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
            self.write(probe, b"")
            self.delete(probe)
        except StorageAway:
            raise
        except OSError as error:
            raise ConfigError(
                f"output {self.shown!r} cannot be written: {error}; set `output` to a writable folder or URI"
            ) from error

    def exists(self, name: str = "") -> bool:
        return self._info(name).type != pafs.FileType.NotFound

    def size_bytes(self, name: str) -> int | None:
        info = self._info(name)
        return info.size if info.type == pafs.FileType.File else None

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """File names in `folder`, relative to this storage, sorted; temporary files left out."""
        prefix = f"{folder}/" if folder else ""
        names = [PurePosixPath(info.path).name for info in self._infos(folder) if info.is_file]
        return sorted(prefix + n for n in names if n.endswith(suffix) and not n.startswith(TEMPORARY_PREFIX))

    def folders(self) -> list[str]:
        return sorted(PurePosixPath(i.path).name for i in self._infos() if i.type == pafs.FileType.Directory)

    def read(self, name: str) -> bytes:
        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                return stream.read()

        return self.persistently(read)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write `name` whole or not at all."""
        target = self.path(name)
        if not self.is_local:
            self.persistently(lambda: self._put(target, content))
            return
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def _put(self, target: str, content: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(target) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens when it is not there."""
        self.persistently(lambda: self.exists(name) and self.filesystem.delete_file(self.path(name)))

    def delete_folder(self, name: str = "") -> None:
        if self.filesystem.type_name == AZURE:  # what deletes many blobs at once there refuses shared access signatures
            below = pafs.FileSelector(self.path(name), allow_not_found=True, recursive=True)
            files = self.persistently(lambda: self.filesystem.get_file_info(below))
            for path in sorted((info.path for info in files), key=len, reverse=True):
                with suppress(FileNotFoundError, IsADirectoryError):
                    self.persistently(partial(self.filesystem.delete_file, path))
            return
        with suppress(FileNotFoundError):  # Google's, of a folder that is nothing but its files
            self.persistently(lambda: self.exists(name) and self.filesystem.delete_dir(self.path(name)))

    def sweep_temporary(self, folder: str = "") -> None:
        """Remove what a killed writer left half-written."""
        prefix = f"{folder}/" if folder else ""
        for info in self._infos(folder):
            name = PurePosixPath(info.path).name
            if info.is_file and name.startswith(TEMPORARY_PREFIX):
                self.delete(prefix + name)


def _in_one_put(location: str) -> str:
    parts = urlsplit(location)
    if parts.scheme != "s3" or ONE_PUT in parse_qs(parts.query):
        return location
    return f"{location}{'&' if parts.query else '?'}{ONE_PUT}=true"


def _without_local_query(location: str) -> str:
    """A local file system takes no options; pyarrow would take a query for part of the path, or refuse it."""
    return location.partition("?")[0] if urlsplit(location).scheme == "file" else location
