"""A stage folder with rows of two columns, as several tests of artifacts need it."""

from __future__ import annotations

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, OpenStage, StageSpec, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.row_ids import RowIds

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
IDS = RowIds(("id",))


def open_(folder: Storage, fingerprint: str = "f", config: dict | None = None) -> Artifact | OpenStage:
    return open_stage(StageSpec(folder, "revise", fingerprint, config or {"rounds": 2}, {}, IDS))


def opened(folder: Storage) -> OpenStage:
    stage = open_(folder)
    assert isinstance(stage, OpenStage)
    return stage


def part(folder: Storage, ids: list[str], dropped: tuple[str, ...] = ()) -> str:
    rows = pa.Table.from_pylist([{"id": i, "text": f"text {i}"} for i in ids], SCHEMA)
    gone = [{"row_id": i, "stage": "revise", "reason": "empty", "detail": "", "attempts": 1} for i in dropped]
    return write_part(folder, rows, pa.Table.from_pylist(gone, DROPPED), [*ids, *dropped], {"tokens": 10}).name


def ids(*names: str) -> pa.Array:
    return pa.array(names, pa.string())
