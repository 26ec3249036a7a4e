"""What an engine actor says of its rows, as a table, and how that becomes a part of the stage.

Tested in tests/engines/conversations/test_generation.py.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from cai_ray.artifacts.parts import PartRecord, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.engines.conversations.ending import LEFT
from cai_ray.engines.conversations.sampled import SAMPLED, write_sampled
from cai_ray.rows import ROW_ID


def outcome_schema(schema: pa.Schema) -> pa.Schema:
    """Of outcomes whose rows have this schema."""
    return pa.schema(
        [
            pa.field(ROW_ID, pa.string(), nullable=False),
            pa.field("row", pa.struct(list(schema))),
            pa.field("dropped", pa.struct(list(DROPPED))),
            pa.field("counters", pa.map_(pa.string(), pa.int64())),
            pa.field(SAMPLED, pa.string()),
            pa.field(LEFT, pa.string()),
        ]
    )


def _flatten(structs: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    present = structs.drop_null().combine_chunks()
    return pa.Table.from_arrays(present.flatten(), schema=schema)


def commit_outcomes(folder: Storage, schema: pa.Schema, batch: pa.Table) -> PartRecord:
    """Write one batch of outcomes as a part."""
    counters: Counter[str] = Counter()
    for pairs in batch["counters"].to_pylist():
        counters.update(dict(pairs))
    record = write_part(
        folder,
        rows=_flatten(batch["row"], schema),
        gone=_flatten(batch["dropped"], DROPPED),
        row_ids=batch[ROW_ID].to_pylist(),
        counters=dict(counters),
    )
    write_sampled(folder, record.name, batch[SAMPLED].to_pylist())
    return record
