"""Finished stages for tests of what reads them, with a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, counted, derive
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DropRow
from cai_ray.row_ids import RowIds


def spec_of(folder: Storage | Path, stage: str, row_ids: RowIds, fingerprint: str = "f", **config: Any) -> StageSpec:
    """What a stage in this very folder is."""
    where = folder if isinstance(folder, Storage) else Storage(str(folder))
    return StageSpec(where, stage, fingerprint, config, {}, row_ids)


def finished(
    spec: StageSpec,
    schema: pa.Schema,
    *parts: Sequence[dict[str, Any]],
    dropped: Mapping[str, DropRow] | None = None,
    counters: Mapping[str, int] | None = None,
) -> Artifact:
    """The stage with these rows, a file per sequence; what is dropped lies beside the first."""
    batches = [
        [Outcome(row_id, row) for row_id, row in zip(ids_of(spec, rows, schema), rows, strict=True)] for rows in parts
    ]
    batches[0] += [Outcome(row_id, drop) for row_id, drop in (dropped or {}).items()]
    if counters:
        batches[0] = list(counted(batches[0], counters))
    return derive(spec, batches, schema)


def ids_of(spec: StageSpec, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> list[str]:
    found: list[str] = spec.row_ids(pa.Table.from_pylist(list(rows), schema)).to_pylist()
    return found
