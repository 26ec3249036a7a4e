"""Ids of rows in numbers that memory should not hold: in buckets by hash, on local disk once they are many.

Sets are compared bucket by bucket, so that the memory it takes is one bucket's of each. The ids themselves are kept
and compared, not digests of them: nothing here is approximate.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUM_BUCKETS = 64
MOST_HELD = 2**16  # ids in memory, of some 50 bytes, before they go to disk
_SCHEMA = pa.schema([pa.field("id", pa.string()), pa.field("place", pa.int64())])


class Ids:
    """Ids, each with a number that says where it was found. Of one process: how ids fall into buckets is its own."""

    def __init__(self, ids: pa.Array | None = None) -> None:
        self._held: list[pa.Table] = []
        self._num_held = 0
        self._num = 0
        self._disk: tempfile.TemporaryDirectory[str] | None = None  # goes with this object
        self._num_files = 0
        if ids is not None:
            self.add(ids)

    def __len__(self) -> int:
        return self._num

    def add(self, ids: pa.Array, place: int | None = None) -> None:
        """Add a string array. `place`: of all of them; None: they are counted through, from 0 for the first ever."""
        start, num = (self._num, len(ids)) if place is None else (place, len(ids))
        places = np.arange(start, start + num) if place is None else np.full(num, place)
        self._held.append(pa.table([ids.cast(pa.string()), pa.array(places, pa.int64())], schema=_SCHEMA))
        self._num_held += num
        self._num += num
        if self._num_held >= MOST_HELD:
            self._flush()

    def _flush(self) -> None:
        """One file of all that is held: a record batch per bucket."""
        if self._disk is None:
            self._disk = tempfile.TemporaryDirectory(prefix="cai_ray-ids-")
        with pa.ipc.new_file(self._file(self._num_files), _SCHEMA) as writer:
            for part in _by_bucket(self._held):
                writer.write_batch(part)
        self._num_files += 1
        self._held, self._num_held = [], 0

    def _file(self, number: int) -> str:
        assert self._disk is not None
        return os.path.join(self._disk.name, f"{number}.arrow")

    def buckets(self) -> Iterator[pa.Table]:
        """NUM_BUCKETS tables of `id` and `place`; an id is in the same one of every `Ids`, in the order of adding."""
        held = _by_bucket(self._held)
        for number in range(NUM_BUCKETS):
            on_disk = [
                pa.ipc.open_file(pa.memory_map(self._file(file))).get_batch(number) for file in range(self._num_files)
            ]
            yield pa.Table.from_batches([*on_disk, held[number]], _SCHEMA)

    def __iter__(self) -> Iterator[str]:
        """In no order."""
        for bucket in self.buckets():
            yield from bucket["id"].to_pylist()

    def num_repeated(self) -> int:
        """How many would have to go so that no id is there twice."""
        return sum(bucket.num_rows - pc.count_distinct(bucket["id"]).as_py() for bucket in self.buckets())

    def found_elsewhere(self) -> dict[int, set[str]]:
        """By place: ids that were found at a lower place as well."""
        found: dict[int, set[str]] = {}
        for bucket in self.buckets():
            if pc.count_distinct(bucket["id"]).as_py() == bucket.num_rows:
                continue
            firsts = bucket.group_by("id").aggregate([("place", "min")])
            both = bucket.join(firsts, "id")
            later = both.filter(pc.greater(both["place"], both["place_min"]))
            for row_id, place in zip(later["id"].to_pylist(), later["place"].to_pylist(), strict=True):
                found.setdefault(place, set()).add(row_id)
        return found

    def places_in(self, others: Ids) -> np.ndarray:
        """The places of those that are in `others` too, int64, in no order."""
        found = [
            mine["place"].filter(pc.is_in(mine["id"], value_set=theirs["id"].combine_chunks())).to_numpy()
            for mine, theirs in zip(self.buckets(), others.buckets(), strict=True)
        ]
        return np.concatenate(found)


def _by_bucket(tables: Sequence[pa.Table]) -> list[pa.RecordBatch]:
    table = pa.concat_tables(tables).combine_chunks() if tables else _SCHEMA.empty_table()
    hashes = np.fromiter(map(hash, table["id"].to_pylist()), np.int64, table.num_rows)
    number = (hashes & (NUM_BUCKETS - 1)).astype(np.uint8)
    sorted_table = table.take(pa.array(np.argsort(number, kind="stable")))
    ends = np.cumsum(np.bincount(number, minlength=NUM_BUCKETS))
    starts = ends - np.bincount(number, minlength=NUM_BUCKETS)
    return [_batch(sorted_table.slice(start, end - start)) for start, end in zip(starts, ends, strict=True)]


def _batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], _SCHEMA)
