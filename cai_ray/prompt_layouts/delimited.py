"""CSV and TSV, record by record, so that no quote makes records vanish without a word.

A quote that is opened and never closed makes one cell of everything behind it; closed many records later, one of all
between. Where that happens nobody can tell the file's records apart, and it is refused with the line to mend. A record
whose fault stays on its own line is one bad record.

Tested in tests/prompt_layouts/test_files.py.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from cai_ray.dropped import DropReason
from cai_ray.prompt_layouts.records import BadRecord, Record, is_utf8

_QUOTE = '"'
_DELIMITERS = {"\t": "name it .tsv or set format: tsv", ",": "name it .csv or set format: csv"} | dict.fromkeys(
    (";", "|"), "write commas, or tabs with format: tsv"
)
_MANY_LINES = 5  # behind one another, each just like a record: no cell's text looks like that by chance


def read_delimited(stream: BinaryIO, delimiter: str) -> Iterator[Record | BadRecord]:
    """Rows under a header. Every cell is text: "NA" and "" stay what they are.

    Raises ValueError when the file's records cannot be told apart, or its header is no header.
    """
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than one long conversation
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    is_first = True
    while True:
        first = reader.line_num + 1
        lines.taken.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _check_stays_on_its_line(first, lines, error)
            yield BadRecord(DropReason.MALFORMED, f"line {first}: {error}")
            continue
        if not row:
            continue
        if header is None:
            header = row
            if len(set(header)) < len(header):
                raise ValueError("the header names a column twice")
            continue
        if is_first:
            _check_delimiter(header, row, delimiter)
            is_first = False
        if len(lines.taken) > 1 and _swallows(lines.taken[1:], delimiter, row, len(header)):
            raise ValueError(
                f"a quote opened on line {first} spans {len(lines.taken)} lines, each of which looks like a record of "
                "its own; remove the quote or double it"
            )
        if len(row) != len(header):
            yield BadRecord(DropReason.MALFORMED, f"line {first} has {len(row)} cells, the header {len(header)}")
        elif not all(cell.isascii() or is_utf8(cell) for cell in row):
            yield BadRecord(DropReason.NOT_UTF8, f"line {first} is not UTF-8")
        else:
            yield dict(zip(header, row, strict=True))


def _check_delimiter(header: Sequence[str], row: Sequence[str], delimiter: str) -> None:
    """Raises ValueError where header and first record are one cell each, and cut alike by another delimiter."""
    if len(header) > 1 or len(row) > 1:
        return
    for other, mend in _DELIMITERS.items():
        if other != delimiter and 0 < header[0].count(other) == row[0].count(other):
            raise ValueError(f"its cells are parted by {other!r}; {mend}")


class _Lines:
    """The lines of a text, and those that were taken since `taken` was last cleared."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self.taken: list[str] = []
        self.is_over = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._text)
        except StopIteration:
            self.is_over = True
            raise
        self.taken.append(line)
        return line


def _check_stays_on_its_line(first: int, lines: _Lines, error: csv.Error) -> None:
    """Raises ValueError where a faulty record may have taken others with it, or left a piece of itself behind."""
    mend = "remove the quote or double it"
    if lines.is_over:
        raise ValueError(f"a quote opened on line {first} is never closed; {mend}") from error
    if len(lines.taken) > 1:
        raise ValueError(
            f"a quote opened on line {first} spans {len(lines.taken)} lines and is closed in the middle of a cell on "
            f"line {first + len(lines.taken) - 1}; {mend}"
        ) from error
    (line,) = lines.taken
    if line.count(_QUOTE) % 2 and not line.rstrip().endswith(_QUOTE):
        raise ValueError(
            f"a quote on line {first} is closed in the middle of a cell and another is opened; {mend}"
        ) from error


def _swallows(behind: Sequence[str], delimiter: str, row: Sequence[str], num_columns: int) -> bool:
    """Whether the lines behind a cell's first one look like records: many of them, or numbered as records are."""
    if num_columns < 2:
        return False  # any line of text is a record of one cell
    numbers = [line.partition(delimiter)[0].replace(_QUOTE, "").strip() for line in behind]
    are_numbered = all(number.isdecimal() for number in numbers)
    if are_numbered and row[0].isdecimal():
        first = int(row[0]) + 1  # whatever else is on these lines: they go on counting from this very record
        if [int(number) for number in numbers] == list(range(first, first + len(numbers))):
            return True
    for line in behind:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=False), [])
        except csv.Error:
            return False
        if len(cells) != num_columns:
            return False
    return are_numbered or len(behind) >= _MANY_LINES
