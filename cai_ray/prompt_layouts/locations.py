"""Where records lie: the files behind a path, a folder, a glob or a URI, in a fixed order.

Tested in tests/prompt_layouts/test_files.py.
"""

from __future__ import annotations

import glob
import os
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, cast

from pyarrow import fs as arrow_fs

from cai_ray.errors import ConfigError
from cai_ray.lookup import location, searched

FileFormat = Literal["auto", "jsonl", "json", "csv", "tsv", "lines", "parquet", "datasets"]
_FORMAT_OF_SUFFIX: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
    ".parquet": "parquet",
}


class FilesBehind(NamedTuple):
    """What a path stands for.

    Attributes:
        root: the path within the filesystem; for a glob, with its pattern.
        paths: the files, sorted; a folder of `datasets.save_to_disk` is one of them.
    """

    filesystem: Any
    root: str
    paths: list[str]


def files_behind(path: str, format: FileFormat = "auto") -> FilesBehind:
    """The files that `read_records` reads, but for hub ids. Raises ConfigError when there is none."""
    filesystem, root = _filesystem_of(location(path))
    return FilesBehind(filesystem, root, _files_at(path, filesystem, root, format))


def _filesystem_of(path: str) -> tuple[Any, str]:
    if "://" not in path:
        return arrow_fs.LocalFileSystem(), path
    try:
        return cast(tuple[Any, str], arrow_fs.FileSystem.from_uri(path))
    except Exception as error:  # every filesystem raises errors of its own
        raise ConfigError(f"{path} is not a path that pyarrow can open: {error}") from error


def _files_at(path: str, filesystem: Any, root: str, format: FileFormat) -> list[str]:
    """The files behind `path`, sorted. Raises ConfigError when there is none."""
    is_local = isinstance(filesystem, arrow_fs.LocalFileSystem)
    if is_local and glob.has_magic(root) and not os.path.exists(root):
        found = sorted(file for file in glob.glob(root, recursive=True) if os.path.isfile(file))
        if not found:
            raise ConfigError(f"{path} matches no file; {searched(path)}")
        return found
    try:
        info = filesystem.get_file_info(root)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{path!r} cannot be reached: {error}") from error
    if info.type == arrow_fs.FileType.NotFound:
        raise ConfigError(f"{path} does not exist; {searched(path)}")
    if info.type == arrow_fs.FileType.File:
        return [root]
    if is_local and (format == "datasets" or os.path.exists(os.path.join(root, "state.json"))):
        return [root]
    if is_local and os.path.exists(os.path.join(root, "dataset_dict.json")):
        splits = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        raise ConfigError(f"{path} holds several splits; name one: {', '.join(f'{path}/{split}' for split in splits)}")
    children = [child.path for child in filesystem.get_file_info(arrow_fs.FileSelector(root)) if child.is_file]
    files = sorted(
        child
        for child in children
        if PurePosixPath(child).name[0] not in "._" and (format != "auto" or _suffix(child) in _FORMAT_OF_SUFFIX)
    )
    if not files:
        raise ConfigError(f"{path} is a folder without a readable file ({', '.join(_FORMAT_OF_SUFFIX)}, each also .gz)")
    return files


def _suffix(file: str) -> str:
    return PurePosixPath(file.removesuffix(".gz")).suffix.lower()


def format_of(file: str, format: FileFormat) -> FileFormat:
    if format != "auto":
        return format
    if _suffix(file) not in _FORMAT_OF_SUFFIX:
        raise ConfigError(
            f"{file} has an unknown suffix {_suffix(file)!r}; known: {', '.join(_FORMAT_OF_SUFFIX)}, or set format"
        )
    return _FORMAT_OF_SUFFIX[_suffix(file)]
