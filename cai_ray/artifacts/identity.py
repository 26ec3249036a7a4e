"""What an input from outside a run *is*: its content, never its modification time or its place (guarantee G4).

Small files and texts are their SHA-256; a large binary file is its size and the hash of blocks spread from its head to
its tail; an object in a store is its ETag; a data set or model of the hub is its commit.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

from cai_ray.artifacts.files import digest
from cai_ray.prompt_layouts.files import parse_hub_id
from cai_ray.prompt_layouts.locations import FileFormat, files_behind

SMALL_BYTES = 64 * 2**20  # read whole up to here; a text is read whole at any size
TEXTS = frozenset(
    {
        *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".md", ".yaml", ".yml", ".py"),
        *(".jinja", ".jinja2", ".j2", ".model", ".vocab"),
    }
)
UNKNOWN = "unknown"  # cannot be found out now; never counts as a change
LOCAL_BLOCKS, LOCAL_BLOCK_BYTES = 64, 2**16  # of a large file, spread evenly; 4 MiB are read in milliseconds
REMOTE_BLOCKS, REMOTE_BLOCK_BYTES = 3, 2**20  # head, middle and tail: a request each
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONG_HASH = re.compile(r"([0-9a-f]{8})[0-9a-f]{8,}")
_known: dict[tuple[object, ...], str] = {}  # of local files, for this process: each is read once


@dataclass(frozen=True)
class Input:
    """Files from outside the run that decide a stage's results.

    Attributes:
        path: file, folder, glob, pyarrow URI or `hf://org/name[:config[:split]]`.
        purpose: what they are for, in a person's words: "prompt set harmless".
        is_model: a model's folder, or its hub id, of which all but the weights is read: engines/models/identity.py
            says what that is.
    """

    path: str
    purpose: str
    format: FileFormat = "auto"
    is_model: bool = False


def contents(source: Input) -> dict[str, str]:
    """Readable name -> identity of each file behind `source`. Raises ConfigError where there is none.

    A name is the file's path below the source, so that the same files at another place have the same names.
    """
    if source.path.startswith("hf://"):
        name = parse_hub_id(source.path)[0]
        if not os.path.isdir(name):
            return {named(source.path, source.purpose): hub_commit(name, "dataset", None)}
        source = Input(name, source.purpose, "datasets")
    found = files_behind(source.path, source.format)
    paths = [path for file in found.paths for path in _files_below(found.filesystem, file)]
    base = _base(found.root)
    return {named(_below(base, path), source.purpose): file_identity(found.filesystem, path) for path in paths}


def named(file: str, purpose: str) -> str:
    """How an input is called in manifests and in messages."""
    return f"{file} ({purpose})"


def file_identity(filesystem: pafs.FileSystem, path: str) -> str:
    """What this file is. Raises OSError when it cannot be read."""
    return _local(path) if isinstance(filesystem, pafs.LocalFileSystem) else _remote(filesystem, path)


def changes(before: Mapping[str, str], now: Mapping[str, str], called: Mapping[str, str] | None = None) -> list[str]:
    """What differs between recorded and present contents, one sentence part each, in the order of the names.

    `called`: name -> what a message says in its place.
    """
    told = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        name = (called or {}).get(key, key)
        if old is None:
            told.append(f"{name}: was not there before ({_short(new or '')})")
        elif new is None:
            told.append(f"{name}: is no longer there ({_short(old)})")
        elif old != new and UNKNOWN not in (old, new):
            told.append(f"{name}: content changed ({_short(old)} -> {_short(new)})")
    return told


def _short(identity: str) -> str:
    return _LONG_HASH.sub(r"\1..", identity)


@functools.cache
def hub_commit(name: str, kind: Literal["model", "dataset"], revision: str | None) -> str:
    """The commit that the hub has now, or that this machine's cache holds; UNKNOWN when neither can tell."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return f"commit {revision}"
    from huggingface_hub import HfApi, constants, file_download

    try:
        commit = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10).sha
    except Exception:  # the hub's errors come from several libraries; a machine without network asks its cache
        folder = file_download.repo_folder_name(repo_id=name, repo_type=kind)
        ref = os.path.join(constants.HF_HUB_CACHE, folder, "refs", revision or "main")
        if not os.path.isfile(ref):
            return UNKNOWN
        with open(ref, encoding="utf-8") as stream:
            commit = stream.read().strip()
    return f"commit {commit}" if commit else UNKNOWN


def _files_below(filesystem: pafs.FileSystem, path: str) -> list[str]:
    """The file itself; of a folder that is one thing, such as a saved data set, all its files."""
    if filesystem.get_file_info(path).type != pafs.FileType.Directory:
        return [path]
    below = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    return sorted(info.path for info in below if info.is_file)


def _base(root: str) -> str:
    """The folder that files are named from: the part of a glob, or of a path, that is a folder for certain."""
    if os.path.exists(root) or not glob.has_magic(root):
        return root
    fixed = takewhile(lambda part: not glob.has_magic(part), PurePosixPath(root).parts)
    return str(PurePosixPath(*fixed))


def _below(base: str, path: str) -> str:
    """`path` from `base` on; its last part where it is `base` itself."""
    if path == base or not PurePosixPath(path).is_relative_to(base):
        return PurePosixPath(path).name
    return str(PurePosixPath(path).relative_to(base))


def _local(path: str) -> str:
    """Read once per process, as long as nothing says that it was written since."""
    seen = os.stat(path)
    key = (os.path.abspath(path), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
    if key not in _known:
        filesystem = pafs.LocalFileSystem()
        is_read_whole = seen.st_size <= SMALL_BYTES or PurePosixPath(path).suffix.lower() in TEXTS
        if is_read_whole:
            _known[key] = _whole(filesystem, path)
        else:
            _known[key] = _sampled(filesystem, path, seen.st_size, LOCAL_BLOCKS, LOCAL_BLOCK_BYTES)
    return _known[key]


def _remote(filesystem: pafs.FileSystem, path: str) -> str:
    with filesystem.open_input_stream(path, compression=None) as stream:
        said = {key.lower(): value for key, value in (stream.metadata() or {}).items()}
    if tag := said.get("etag"):
        return f"etag {(tag.decode() if isinstance(tag, bytes) else tag).strip(chr(34))}"
    size = filesystem.get_file_info(path).size
    if size <= SMALL_BYTES:
        return _whole(filesystem, path)
    return _sampled(filesystem, path, size, REMOTE_BLOCKS, REMOTE_BLOCK_BYTES)


def _whole(filesystem: pafs.FileSystem, path: str) -> str:
    return f"sha256 {digest(filesystem, path)[1]}"


def _sampled(filesystem: pafs.FileSystem, path: str, size: int, num_blocks: int, block_bytes: int) -> str:
    """Size, and one hash of blocks from the first bytes to the last ones. `size` is more than a block."""
    state = hashlib.sha256()
    with filesystem.open_input_file(path) as stream:
        for k in range(num_blocks):
            stream.seek(k * (size - block_bytes) // (num_blocks - 1))
            state.update(stream.read(block_bytes))
    return f"{size} bytes, sampled sha256 {state.hexdigest()}"
