"""A finished stage, or a begun one, with some of its dropped rows open again: the next run asks them as a new attempt.

Tested in tests/artifacts/test_reopened.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.artifact import MANIFEST, PLAN, SUMMARY, Artifact, Manifest, Plan, find
from cai_ray.artifacts.parts import (
    FileRecord,
    PartRecord,
    begun_parts,
    committed_parts,
    part_tables,
    read_table,
    replace_part,
)
from cai_ray.artifacts.storage import Storage
from cai_ray.row_ids import RowIds


def num_dropped(folder: Storage, reasons: Sequence[str]) -> int:
    """Rows of the stage in `folder` that were dropped for one of the reasons."""
    found = find(folder)
    if found is not None:
        return sum(found.manifest.rows_dropped.get(reason, 0) for reason in reasons)
    return sum(part.dropped_by_reason.get(reason, 0) for part in begun_parts(folder) for reason in reasons)


def reopen(folder: Storage, row_ids: RowIds, reasons: Sequence[str]) -> int:
    """Take back the rows that were dropped for one of the reasons, and with them the stage's end; how many.

    A crash in between leaves the stage finished as it was, or begun with some of the rows taken back.
    """
    found = find(folder)
    if found is not None:
        _unfinish(found)
    parts, _ = committed_parts(folder, row_ids)
    return sum(_without(folder, part, row_ids, reasons) for part in parts)


def _unfinish(finished: Artifact) -> None:
    """From a manifest back to the records of its parts."""
    folder, manifest = finished.folder, finished.manifest
    records = sorted(_records(finished), key=lambda record: record.rows is None)
    for number, record in enumerate(records):
        counters = manifest.counters if number == 0 else {}  # their sum is all that is known
        content = record.model_copy(update={"counters": counters}).model_dump_json()
        folder.write(f"records/{record.name}.json", content.encode())
    folder.write(PLAN, _plan(manifest).model_dump_json(indent=2).encode())
    folder.delete(MANIFEST)
    folder.delete(SUMMARY)


def _plan(manifest: Manifest) -> Plan:
    return Plan(
        stage=manifest.stage,
        fingerprint=manifest.fingerprint,
        config=manifest.config,
        contents=manifest.contents,
        started_at=manifest.started_at,
        attempts=manifest.attempts,
    )


def _records(finished: Artifact) -> list[PartRecord]:
    manifest = finished.manifest
    rows, dropped, left_out = (
        {_part_name(file): file for file in files}
        for files in (manifest.files, manifest.dropped_files, manifest.left_out_files)
    )
    return [
        PartRecord(
            name=name,
            rows=rows.get(name),
            dropped=dropped.get(name),
            left_out=left_out.get(name),
            dropped_by_reason=_by_reason(finished.folder, dropped.get(name)),
            left_out_by_reason=_by_reason(finished.folder, left_out.get(name)),
            counters={},
        )
        for name in sorted({*rows, *dropped, *left_out})
    ]


def _by_reason(folder: Storage, file: FileRecord | None) -> dict[str, int]:
    return dict(Counter(read_table(folder, file.name, ["reason"])["reason"].to_pylist())) if file else {}


def _part_name(file: FileRecord) -> str:
    return file.name.rpartition("part-")[2].removesuffix(".parquet")


def _without(folder: Storage, part: PartRecord, row_ids: RowIds, reasons: Sequence[str]) -> int:
    rows, gone = part_tables(folder, part)
    is_open = pc.is_in(gone["reason"], value_set=pa.array(list(reasons), pa.string()))
    num_open = pc.sum(is_open).as_py() or 0
    if num_open:
        replace_part(folder, part, rows, gone.filter(pc.invert(is_open)), row_ids)
    return num_open
