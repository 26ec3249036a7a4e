"""Files with their hash: recorded, moved between a local folder and storage, checked for damage.

Tested in tests/engines/training/test_checkpoints.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow.fs as pafs

from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import TEMPORARY_PREFIX, Storage

BLOCK_BYTES = 4 * 2**20


def record_file(folder: Path, file: Path, prefix: str) -> FileRecord:
    """Size and hash of one local file; its name is `prefix`/<path below folder>."""
    size, sha256 = digest(pafs.LocalFileSystem(), str(file))
    return FileRecord(
        name=f"{prefix}/{file.relative_to(folder).as_posix()}", num_rows=0, size_bytes=size, sha256=sha256
    )


def digest(filesystem: pafs.FileSystem, path: str) -> tuple[int, str]:
    """Size in bytes and SHA-256, read in blocks: optimiser states are larger than memory should have to hold."""
    size, state = 0, hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(BLOCK_BYTES):
            size += len(block)
            state.update(block)
    return size, state.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file, sorted; half-written temporary files left out."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(TEMPORARY_PREFIX))


def upload(folder: Path, file: Path, target: Storage, prefix: str) -> None:
    """Copy one local file to `target`/`prefix`."""
    name = f"{prefix}/{file.relative_to(folder).as_posix()}"

    def put() -> None:
        target.filesystem.create_dir(target.path(name).rsplit("/", 1)[0], recursive=True)
        pafs.copy_files(str(file), target.path(name), pafs.LocalFileSystem(), target.filesystem)

    target.persistently(put)


def download(source: Storage, files: Iterable[FileRecord], folder: Path, prefix: str) -> None:
    """The inverse for a whole record: its files below `prefix` come to lie in `folder`, unless they do already."""
    local = pafs.LocalFileSystem()
    for file in files:
        target = folder / Path(file.name).relative_to(prefix)
        if target.exists() and digest(local, str(target)) == (file.size_bytes, file.sha256):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source.persistently(partial(pafs.copy_files, source.path(file.name), str(target), source.filesystem, local))


def damage(storage: Storage, files: Sequence[FileRecord]) -> str | None:
    """What is wrong with these files: None when all are there, whole and unchanged."""
    for file in files:
        size = storage.size_bytes(file.name)
        if size != file.size_bytes:
            return f"{file.name} is missing" if size is None else f"{file.name} has {size} bytes of {file.size_bytes}"
    with ThreadPoolExecutor(8) as threads:
        hashed = [partial(digest, storage.filesystem, storage.path(file.name)) for file in files]
        digests = threads.map(storage.persistently, hashed)
        for file, (_, sha256) in zip(files, digests, strict=True):
            if sha256 != file.sha256:
                return f"{file.name} has changed since it was written"
    return None
