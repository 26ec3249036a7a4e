"""Read records from files: JSONL, JSON, CSV, TSV, text lines, Parquet, `datasets` folders, the hub. Streaming.

One unreadable record is one `BadRecord`; a file that cannot be read at all is a ConfigError.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, BinaryIO, cast

from pyarrow import fs as arrow_fs

from cai_ray.dropped import DropReason
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.delimited import read_delimited
from cai_ray.prompt_layouts.kinds_of_file import HEAD_BYTES, foreign_kind
from cai_ray.prompt_layouts.locations import FileFormat, files_behind, format_of
from cai_ray.prompt_layouts.records import BadRecord as BadRecord
from cai_ray.prompt_layouts.records import Record as Record

_CHUNK_BYTES = 1 << 20
_ROWS_PER_BATCH = 1024


def read_records(path: str, format: FileFormat = "auto") -> Iterator[tuple[int, Record | BadRecord]]:
    """Yield (0-based record number, record) of `path`, numbered through all its files.

    `path`: a file, a folder of files, a glob, a folder of `datasets.save_to_disk`, a pyarrow filesystem
    URI (s3://, gs://, file://), or a hub id `hf://org/name[:config[:split]]`. Files are taken in sorted
    order, `.gz` ones decompressed; blank lines are no records. Memory stays bounded by one record (JSON,
    CSV) or one batch of rows (Parquet).

    Raises ConfigError when there is nothing to read, or a file is damaged.
    """
    number = -1
    for number, record in enumerate(_records(path, format)):
        yield number, record
    if number < 0:
        raise ConfigError(f"{path} holds no records; name a file that does")


def _records(path: str, format: FileFormat) -> Iterator[Record | BadRecord]:
    if path.startswith("hf://"):
        yield from _read_hub(path)
        return
    filesystem, _, paths = files_behind(path, format)
    for file in paths:
        if isinstance(filesystem, arrow_fs.LocalFileSystem) and os.path.isdir(file):
            yield from _read_datasets_folder(file)
        else:
            yield from _read_file(filesystem, file, format_of(file, format))


def _read_file(filesystem: Any, file: str, format: FileFormat) -> Iterator[Record | BadRecord]:
    readers: dict[str, Callable[[BinaryIO], Iterator[Record | BadRecord]]] = {
        "jsonl": _read_jsonl,
        "json": _read_json,
        "csv": lambda stream: read_delimited(stream, ","),
        "tsv": lambda stream: read_delimited(stream, "\t"),
        "lines": _read_lines,
    }
    count = 0
    try:
        if (kind := _foreign_kind(filesystem, file, format)) is not None:
            raise ConfigError(f"{file} cannot be read as {format}: it is {kind}")
        if format == "parquet":
            for record in _read_parquet(filesystem, file):
                yield record
                count += 1
            return
        with _open(filesystem, file) as stream:
            for record in readers[format](stream):
                yield record
                count += 1
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        RecursionError,
    ) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{file} cannot be read as {format} after {count} records: {error}") from error


def _foreign_kind(filesystem: Any, file: str, format: FileFormat) -> str | None:
    """What the file is where it is surely not of this format. Raises OSError, EOFError, zlib.error when unreadable."""
    with _open(filesystem, file) as stream:
        head = stream.read(HEAD_BYTES)
    if format == "parquet":
        return None if head.startswith(b"PAR1") else foreign_kind(head) or "none, by its first bytes; set `format`"
    return foreign_kind(head)


def _open(filesystem: Any, file: str) -> BinaryIO:
    if isinstance(filesystem, arrow_fs.LocalFileSystem):
        raw: BinaryIO = open(file, "rb")  # noqa: SIM115 - the caller closes it
    else:
        raw = cast(BinaryIO, io.BufferedReader(filesystem.open_input_stream(file, compression=None), _CHUNK_BYTES))
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.endswith(".gz") else raw


_DECODER = json.JSONDecoder()
_JSON_SPACE = re.compile(r"[ \t\r\n]*")

# --- Lines -------------------------------------------------------------------------------------------


def _decoded_lines(stream: BinaryIO) -> Iterator[str | BadRecord]:
    """The lines that are not blank; one that is not UTF-8 is one bad record."""
    for index, line in enumerate(stream):
        if index == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
            if b"\r" in line and not line.endswith(b"\n"):
                raise ValueError("its lines end in CR alone; write LF")
        if not line.strip():
            continue
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRecord(DropReason.NOT_UTF8, f"line {index + 1} is not UTF-8 from byte {error.start}")


def _read_jsonl(stream: BinaryIO, is_json: bool = False) -> Iterator[Record | BadRecord]:
    lines = _decoded_lines(stream)
    first = next(lines, None)
    if first is None:
        return
    second = next(lines, None)
    _check_is_not_one_value(first, second)
    if is_json and second is None and (isinstance(first, BadRecord) or not _is_json(first)):
        raise ValueError("it is neither a JSON array nor a record per line")
    for line in chain((first,), () if second is None else (second,), lines):
        if isinstance(line, BadRecord):
            yield line
            continue
        yield from _records_of(line)


def _records_of(line: str) -> Iterator[Record | BadRecord]:
    """One, unless line breaks were lost between whole records: then each of them."""
    values, position = [], _behind_space(line, 0)
    try:
        while position < len(line):
            value, end = _DECODER.raw_decode(line, position)
            values.append(value)
            position = _behind_space(line, end)
    except (ValueError, RecursionError) as error:
        yield BadRecord(DropReason.MALFORMED, f"not a line of JSON: {_reason(error)}")
        return
    if len(values) == 1 or all(isinstance(value, dict) for value in values):
        yield from map(_as_record, values)
    else:
        yield BadRecord(DropReason.MALFORMED, "not a line of JSON: several values, not all of them objects")


def _check_is_not_one_value(first: str | BadRecord, second: str | BadRecord | None) -> None:
    """Raises ValueError where the lines are those of a single JSON value: an array of records, or one object."""
    if isinstance(first, BadRecord):
        return
    start = first.strip()
    if start.startswith("[") and (second is None or not _is_json(start)):
        raise ValueError("it is one JSON array, not a record per line; name it .json or set format: json")
    if start == "{" and isinstance(second, str) and second.lstrip().startswith('"'):
        raise ValueError("it is JSON over several lines, not a record per line; write an array of the records")
    if second is None and _is_json(start) and _is_columns(json.loads(start)):
        raise ValueError(
            "it is one JSON object of columns, not of records; write orient='records', lines=True in pandas"
        )


def _is_columns(value: Any) -> bool:
    """Whether a JSON value holds a table by columns: lists of texts and the like, equally long, or pandas' mappings."""
    columns = list(value.values()) if isinstance(value, dict) else []
    if columns and all(isinstance(column, dict) and column for column in columns):
        return all(key.isdecimal() for column in columns for key in column)
    if not columns or not all(isinstance(column, list) and len(column) > 1 for column in columns):
        return False
    is_even = len({len(column) for column in columns}) == 1
    return is_even and any(all(isinstance(cell, str) for cell in column) for column in columns)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_lines(stream: BinaryIO) -> Iterator[Record | BadRecord]:
    for line in _decoded_lines(stream):
        yield line if isinstance(line, BadRecord) else {"text": line.strip()}


def _as_record(value: Any) -> Record | BadRecord:
    """A JSON value as a record; a bare string is a prompt."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    return BadRecord(DropReason.MALFORMED, f"the record is of JSON type {type(value).__name__}, not an object")


def _reason(error: Exception) -> str:
    """The error without the document, which may be long and is the row's own text."""
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else type(error).__name__


# --- One JSON array ----------------------------------------------------------------------------------


def _read_json(stream: BinaryIO) -> Iterator[Record | BadRecord]:
    """A JSON array of records, element by element; or, as many `.json` files are, one object per line."""
    buffered = io.BufferedReader(cast(Any, stream), _CHUNK_BYTES)
    head = buffered.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()
    if not head.startswith(b"["):
        yield from _read_jsonl(cast(BinaryIO, buffered), is_json=True)
        return
    text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape")
    window = text.read(_CHUNK_BYTES)
    position = _behind_space(window, _behind_space(window, 0) + 1)
    needs_comma = False
    while True:
        position = _behind_space(window, position)
        if needs_comma and window.startswith(",", position):
            position, needs_comma = _behind_space(window, position + 1), False
        if window.startswith("]", position):
            if (window[position + 1 :] + text.read()).strip():
                raise ValueError("there is more behind the closing bracket of the array")
            return
        value, end, problem = None, -1, "it has no closing bracket"
        if position < len(window):
            if needs_comma:
                raise ValueError("two elements of the array have no comma between them")
            try:
                value, end = _DECODER.raw_decode(window, position)
            except ValueError as error:
                problem = _reason(error)
        if 0 <= end < len(window):
            yield _as_record(value)
            position, needs_comma = end, True
            continue
        # Nothing more in the window, or a value that may go on behind it (a number's first digits).
        chunk = text.read(_CHUNK_BYTES)
        if not chunk:
            raise ValueError(f"the array breaks off or is not valid JSON: {problem}")
        window, position = window[position:] + chunk, 0


def _behind_space(window: str, position: int) -> int:
    return cast(re.Match[str], _JSON_SPACE.match(window, position)).end()


# --- Parquet, datasets, hub --------------------------------------------------------------------------


def _read_parquet(filesystem: Any, file: str) -> Iterator[Record | BadRecord]:
    from pyarrow import parquet

    with filesystem.open_input_file(file) as source:
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=_ROWS_PER_BATCH):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:  # Parquet does not check its text; find the rows that are at fault
                for index in range(batch.num_rows):
                    yield _parquet_row(batch, index)


def _parquet_row(batch: Any, index: int) -> Record | BadRecord:
    try:
        return cast(Record, batch.slice(index, 1).to_pylist()[0])
    except UnicodeDecodeError as error:
        return BadRecord(DropReason.NOT_UTF8, f"a text is not UTF-8 from byte {error.start}")


def _read_datasets_folder(folder: str) -> Iterator[Record | BadRecord]:
    import datasets  # takes a second to import

    try:
        table = datasets.load_from_disk(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{folder} is not a folder of datasets.save_to_disk: {error}") from error
    if not isinstance(table, datasets.Dataset):
        raise ConfigError(f"{folder} holds several splits; name one: {', '.join(f'{folder}/{name}' for name in table)}")
    yield from (dict(row) for row in table)


def _read_hub(path: str) -> Iterator[Record | BadRecord]:
    name, config, split = parse_hub_id(path)
    import datasets  # takes a second to import

    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # the hub's errors come from several libraries
        raise ConfigError(f"{path} cannot be loaded from the hub: {type(error).__name__}: {error}") from error
    yield from (dict(row) for row in rows)


def parse_hub_id(path: str) -> tuple[str, str | None, str]:
    """ "hf://org/name:config:split" -> (name, config or None, split); the split is "train" by default.

    An empty config, as in "hf://org/name::test", is the default one. Raises ConfigError.
    """
    parts = path.removeprefix("hf://").split(":")
    if not parts[0] or len(parts) > 3:
        raise ConfigError(f"{path} is not a hub id; write hf://org/name, hf://org/name:config or ...:config:split")
    name, config, split = (*parts, "", "")[:3]
    return name, config or None, split or "train"
