"""The pure pass: a stage whose rows are made quickly and without chance from what is there already.

Every unit of work has one outcome: a row, or the reason for having none. Each batch of outcomes becomes a part. There
is nothing to save of a pass that was cut off, so the next attempt writes all of it anew, over what the last one left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, OpenStage, StageSpec, open_stage
from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.parts import PartRecord, remove_part, write_part
from cai_ray.dropped import DROPPED, DropRow, dropped_row

NO_COUNTERS: Mapping[str, int] = MappingProxyType({})
OUTCOMES_PER_PART = 5_000


class Outcome(NamedTuple):
    """What became of one unit of work."""

    row_id: str
    end: dict[str, Any] | DropRow  # a row of the stage's schema, or why there is none
    counters: Mapping[str, int] = NO_COUNTERS  # summed into the manifest

    @property
    def row(self) -> dict[str, Any]:
        """The row. Raises the DropRow of a unit that has none."""
        if isinstance(self.end, DropRow):
            raise self.end
        return self.end

    @property
    def drop(self) -> DropRow | None:
        return self.end if isinstance(self.end, DropRow) else None


def outcome(row_id: str, make: Callable[[], dict[str, Any]]) -> Outcome:
    """Of a function that returns the unit's row or raises DropRow."""
    try:
        return Outcome(row_id, make())
    except DropRow as drop:
        return Outcome(row_id, drop)


@dataclass(frozen=True)
class Written:
    """What a pass wrote."""

    row_ids: Ids  # of every unit that has an outcome
    parts: tuple[PartRecord, ...]

    @property
    def counters(self) -> Counter[str]:
        return sum((Counter(part.counters) for part in self.parts), Counter())

    @property
    def gone_by_reason(self) -> Counter[str]:
        """Units dropped and left out."""
        return sum((Counter(part.dropped_by_reason | part.left_out_by_reason) for part in self.parts), Counter())


def derive(
    spec: StageSpec, batches: Iterable[Sequence[Outcome]], schema: pa.Schema, units: Sequence[str] | None = None
) -> Artifact:
    """The finished artifact, or the one that is made now of all outcomes.

    `batches` must be lazy: nothing of it is asked for when the artifact is finished. `units`: every unit of work, where
    that is known apart from the outcomes; the two are then held against each other. Raises ConservationError where they
    differ, or where a unit has two outcomes.
    """
    opened = open_stage(spec)
    if isinstance(opened, Artifact):
        return opened
    written = write_outcomes(opened, batches, schema)
    return opened.commit(written.row_ids if units is None else pa.array(units, pa.string()))


def write_outcomes(opened: OpenStage, batches: Iterable[Sequence[Outcome]], schema: pa.Schema) -> Written:
    """Write a part for each batch, in place of all parts of earlier attempts; an empty batch leaves none."""
    for part in opened.parts:
        remove_part(opened.folder, part)
    row_ids = Ids()
    parts = []
    for batch in batches:
        if batch:
            parts.append(_write_part(opened, batch, schema))
            row_ids.add(pa.array([one.row_id for one in batch], pa.string()))
    return Written(row_ids, tuple(parts))


def _write_part(opened: OpenStage, batch: Sequence[Outcome], schema: pa.Schema) -> PartRecord:
    stage = opened.plan.stage
    rows = [one.end for one in batch if not isinstance(one.end, DropRow)]
    gone = [dropped_row(one.row_id, stage, one.end) for one in batch if isinstance(one.end, DropRow)]
    counters: Counter[str] = Counter()
    for one in batch:
        counters.update(one.counters)
    return write_part(
        opened.folder,
        pa.Table.from_pylist(rows, schema),
        pa.Table.from_pylist(gone, DROPPED),
        [one.row_id for one in batch],
        dict(counters),
    )


def batched(outcomes: Iterable[Outcome], size: int = OUTCOMES_PER_PART) -> Iterator[list[Outcome]]:
    """The outcomes in order, `size` to a part."""
    left = iter(outcomes)
    while batch := list(islice(left, size)):
        yield batch


def counted(outcomes: Iterable[Outcome], counters: Mapping[str, int]) -> Iterator[Outcome]:
    """The outcomes, the first with these counters besides its own: those of the artifact that all are made from."""
    for one in outcomes:
        both = Counter(one.counters)
        both.update(counters)  # and not a sum, which would lose what is counted as 0
        yield one._replace(counters=both)
        counters = NO_COUNTERS
