"""The units of work that an input asks for: their ids, and which of them are committed already (anti-join, G3).

What is done travels to the tasks that read the input as bits, one per unit and in its order, not as ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.parts import read_table
from cai_ray.artifacts.storage import Storage
from cai_ray.rows import ROW_ID

UNITS_PER_READ = 4096  # that one task reads and cuts up for the engines
Expand = Callable[[pa.Table], pa.Table]  # input rows -> units of work with a `row_id` column


@dataclass(frozen=True)
class Units:
    """Every unit of work of an input, in its order."""

    ids: Ids  # at place k: that of unit k
    files: tuple[tuple[str, int], ...]  # of the input: name, number of units


@dataclass(frozen=True)
class FileLeft:
    """What is left of an input file: at least one unit."""

    name: str
    is_done: np.ndarray  # bool [num_units]

    @property
    def num_left(self) -> int:
        return len(self.is_done) - int(self.is_done.sum())


def units_of(source: Artifact, columns: Sequence[str], expand: Expand) -> Units:
    """Read the input. `columns`: what `expand` needs to name the units."""
    ids = Ids()
    files = []
    for file, table in zip(source.manifest.files, source.tables(columns), strict=True):
        units = expand(table)
        ids.add(units[ROW_ID].combine_chunks())
        files.append((file.name, units.num_rows))
    return Units(ids, tuple(files))


def left_of(units: Units, done: Ids) -> list[FileLeft]:
    """The files with units that are not done yet."""
    is_done = np.zeros(len(units.ids), bool)
    if len(done):
        is_done[units.ids.places_in(done)] = True
    ends = list(accumulate(num for _, num in units.files))
    files = [FileLeft(name, is_done[end - num : end]) for (name, num), end in zip(units.files, ends, strict=True)]
    return [file for file in files if file.num_left]


def reading_tasks(files: Sequence[FileLeft]) -> list[pa.Table]:
    """What each reading task reads: `file` names, until they hold UNITS_PER_READ units, and `done` bits of each.

    `start`: units that are left in all files before it.

    Tasks as many as the units need: each may start a process, which takes seconds, and one reads faster than any
    engine.
    """
    tasks: list[list[FileLeft]] = []
    num_units = UNITS_PER_READ
    for file in files:
        if num_units >= UNITS_PER_READ:
            tasks.append([])
            num_units = 0
        tasks[-1].append(file)
        num_units += file.num_left
    sizes = [file.num_left for file in files]
    starts = iter([end - size for end, size in zip(accumulate(sizes), sizes, strict=True)])
    return [
        pa.table(
            {
                "file": pa.array([file.name for file in task], pa.string()),
                "done": pa.array([np.packbits(file.is_done).tobytes() for file in task], pa.binary()),
                "start": pa.array([next(starts) for _ in task], pa.int64()),
            }
        )
        for task in tasks
    ]


def read_units(source: Storage, task: pa.Table, expand: Expand) -> Iterator[pa.Table]:
    """What is left of each file of a task, with all columns."""
    for name, bits in zip(task["file"].to_pylist(), task["done"].to_pylist(), strict=True):
        units = expand(read_table(source, name))
        is_done = np.unpackbits(np.frombuffer(bits, np.uint8), count=units.num_rows).view(bool)
        yield units.filter(pa.array(~is_done)) if is_done.any() else units
