"""How a set's records are read by a layout: which columns carry its fields, and what each record says.

Tested in tests/prompt_layouts/test_pairs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from cai_ray.dropped import DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.files import BadRecord, Record, read_records
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.records import Fields

_SAMPLE_RECORDS = 100  # read ahead to find the layout and its columns
B = TypeVar("B")
R = TypeVar("R")
Columns = Mapping[str, tuple[str, ...]]  # field -> the column names to look for, in order
Numbered = tuple[int, Record | BadRecord]


@dataclass(frozen=True)
class Reading(Generic[R]):
    """A layout.

    Attributes:
        parse: one record, seen through `Fields`, to what it says; raises DropRow.
        required, optional: fields that every set of this layout has, and those it may lack.
        signs: columns that give the layout away, all of one group.
        gather: joins the records of one prompt, which follow one another, into one; None: each stands for itself.
    """

    parse: Callable[[Fields], R]
    required: Columns
    optional: Columns = field(default_factory=dict)
    signs: tuple[tuple[str, ...], ...] = ()
    gather: Callable[[Iterable[Numbered], Mapping[str, str | None]], Iterator[Numbered]] | None = None


def columns_of(sample: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column of the sample, in order."""
    return list(dict.fromkeys(column for record in sample for column in record))


def listed(columns: Sequence[str]) -> str:
    """The columns of a set, for an error."""
    return ", ".join(repr(column) for column in columns[:20]) + (", ..." if len(columns) > 20 else "") or "no columns"


def bound_columns(
    name: str, required: Columns, optional: Columns, present: Sequence[str], given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Field -> the column of the set that carries it; `given` before any guess, None there: no such column.

    Raises ConfigError for an unknown field and for a column that is not there.
    """
    known = {**required, **optional}
    for each, column in given.items():
        if each not in known:
            raise ConfigError(f"columns: layout {name} has no field {each!r}; it has {', '.join(known)}")
        if column is None and each in required:
            raise ConfigError(f"columns: layout {name} needs a column for {each!r}; name one")
        if column is not None and column not in present:
            raise ConfigError(f"columns.{each}={column!r}: no such column; the set has {listed(present)}")
    bound: dict[str, str | None] = {}
    for each, candidates in known.items():
        found = given[each] if each in given else next((c for c in candidates if c in present), None)
        if found is None and each in required:
            raise ConfigError(
                f"layout {name} needs a column for {each!r} ({' or '.join(candidates)}); the set has "
                f"{listed(present)}; set columns: {{{each}: <column>}}"
            )
        bound[each] = found
    return bound


def looked_ahead(
    records: Iterator[Numbered], bind: Callable[[list[Record]], B]
) -> Iterator[tuple[int, Record | BadRecord, B | None]]:
    """Every record with what `bind` makes of the first readable ones; None as long as none was readable."""
    bound: B | None = None
    while batch := list(islice(records, _SAMPLE_RECORDS)):
        sample = [record for _, record in batch if isinstance(record, dict)]
        if bound is None and sample:
            bound = bind(sample)
        # Once the layout is known the rest streams; batches with nothing readable in them need none.
        for number, record in chain(batch, records) if bound is not None else batch:
            yield number, record, bound


def read_by(
    path: str,
    format: FileFormat,
    limit: int | None,
    readings: Mapping[str, Reading[R]],
    layout: str,
    columns: Mapping[str, str | None],
) -> Iterator[tuple[int, R | DropRow]]:
    """(number of the record, what it says or why it says nothing) of the first `limit` records of a set.

    `layout`: a name of `readings`, or "auto": the first of them whose signs the set has, else the last one.
    Raises ConfigError when the set cannot be read, or lacks a column of the layout.
    """

    def bind(sample: list[Record]) -> tuple[Reading[R], dict[str, str | None]]:
        present = columns_of(sample)
        name = _told_apart(readings, present, columns) if layout == "auto" else layout
        chosen = readings[name]
        try:
            return chosen, bound_columns(name, chosen.required, chosen.optional, present, columns)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}; or set layout to one of {', '.join(readings)}") from None

    ahead = looked_ahead(islice(read_records(path, format), limit), bind)
    for number, record, bound in ahead:
        if bound is None:
            assert isinstance(record, BadRecord), "a readable record binds the layout"
            yield number, DropRow(record.reason, record.detail)
            continue
        reading, found = bound
        records: Iterator[Numbered] = chain([(number, record)], ((one[0], one[1]) for one in ahead))
        if reading.gather is not None:
            records, found = reading.gather(records, found), {}
        for each, whole in records:
            yield each, _parsed(reading.parse, whole, found)


def _told_apart(readings: Mapping[str, Reading[R]], present: Sequence[str], given: Mapping[str, str | None]) -> str:
    """The layout whose fields are given, or whose signs are there."""
    for name, reading in readings.items():
        if given and given.keys() <= {*reading.required, *reading.optional} and reading.required.keys() <= given.keys():
            return name
    for name, reading in readings.items():
        if any(all(sign in present for sign in group) for group in reading.signs):
            return name
    return list(readings)[-1]


def _parsed(parse: Callable[[Fields], R], record: Record | BadRecord, columns: Mapping[str, str | None]) -> R | DropRow:
    """`columns`: none of a gathered record, whose fields are its columns."""
    if isinstance(record, BadRecord):
        return DropRow(record.reason, record.detail)
    try:
        return parse(Fields(record, columns or {name: name for name in record}))
    except DropRow as drop:
        return drop
