"""Parts: how a stage's rows reach storage so that each counts exactly once (guarantees G1-G3).

A part is up to three files, the rows that came out (`part-NAME.parquet`), those that were dropped
(`dropped/part-NAME.parquet`) and those that the recipe leaves out (`left_out/part-NAME.parquet`), and a small record
(`records/NAME.json`) written last. Only a part with a record counts; a file without one is an orphan of a killed
writer. NAME is a hash of the part's row ids, so a retried write lands on itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.dropped import DROPPED, LeftOutReason
from cai_ray.row_ids import RowIds
from cai_ray.seeding import stable_id

DROPPED_ROWS, LEFT_OUT_ROWS = "dropped", "left_out"  # folders inside the stage's own
READERS = 8  # threads that read parts
_LEFT_OUT = pa.array(map(str, LeftOutReason), pa.string())


class FileRecord(Config):
    """One committed file."""

    name: str  # relative to the stage's folder
    num_rows: int
    size_bytes: int
    sha256: str


class PartRecord(Config):
    """One committed part."""

    name: str
    rows: FileRecord | None  # None: everything in this part was dropped
    dropped: FileRecord | None
    left_out: FileRecord | None = None
    dropped_by_reason: dict[str, int]
    left_out_by_reason: dict[str, int] = Field(default_factory=dict)
    counters: dict[str, int]  # tokens, cleaning rules, gates: summed into the manifest

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows if self.rows else 0

    @property
    def num_dropped(self) -> int:
        return self.dropped.num_rows if self.dropped else 0

    @property
    def num_left_out(self) -> int:
        return self.left_out.num_rows if self.left_out else 0

    @property
    def files(self) -> list[FileRecord]:
        return [file for file in (self.rows, self.dropped, self.left_out) if file]


def _write_table(folder: Storage, name: str, table: pa.Table) -> FileRecord:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    folder.write(name, content)
    return FileRecord(
        name=name,
        num_rows=table.num_rows,
        size_bytes=content.size,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def write_part(
    folder: Storage,
    rows: pa.Table,
    gone: pa.Table,
    row_ids: Sequence[str],
    counters: dict[str, int] | None = None,
) -> PartRecord:
    """Write and commit one part. `gone`: its DROPPED rows, left out ones too. `row_ids`: all its units of work."""
    name = stable_id(*sorted(row_ids))
    is_left_out = pc.is_in(gone["reason"], value_set=_LEFT_OUT)
    dropped, left_out = gone.filter(pc.invert(is_left_out)), gone.filter(is_left_out)
    record = PartRecord(
        name=name,
        rows=_write_table(folder, f"part-{name}.parquet", rows) if rows.num_rows else None,
        dropped=_write_table(folder, f"{DROPPED_ROWS}/part-{name}.parquet", dropped) if dropped.num_rows else None,
        left_out=_write_table(folder, f"{LEFT_OUT_ROWS}/part-{name}.parquet", left_out) if left_out.num_rows else None,
        dropped_by_reason=_by_reason(dropped),
        left_out_by_reason=_by_reason(left_out),
        counters=counters or {},
    )
    folder.write(f"records/{name}.json", record.model_dump_json().encode())
    return record


def _by_reason(gone: pa.Table) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(gone["reason"]).to_pylist()}


def begun_parts(folder: Storage) -> list[PartRecord]:
    """The parts that an unfinished stage's records name, damaged records left out; the files are not looked at."""
    records = (_parsed(folder, name) for name in folder.names("records", ".json"))
    return [record for record in records if record is not None]


def _parsed(folder: Storage, name: str) -> PartRecord | None:
    try:
        return PartRecord.model_validate_json(folder.read(name))
    except ValueError:
        return None


def read_table(folder: Storage, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A committed Parquet file, whole."""

    def read() -> pa.Table:
        with folder.filesystem.open_input_file(folder.path(name)) as file:
            return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))

    return folder.persistently(read)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.string())


def committed_parts(folder: Storage, row_ids: RowIds) -> tuple[list[PartRecord], Ids]:
    """All parts that count, each row in exactly one of them, and the ids they account for, with their part's place.

    Damaged parts lose their record. When two parts claim a row (a block was cut differently after a
    node was lost), the part that comes first by name keeps it and the other is written again without.
    """
    while True:
        parts, ids = _whole_parts(folder, row_ids)
        contested = ids.found_elsewhere()
        if not contested:
            return parts, ids
        written: set[str] = set()
        for place, lost in sorted(contested.items()):
            if parts[place].name in written:
                continue  # an overlapping part was rewritten to just these rows, over this one: looked at anew
            rewritten = without_rows(folder, parts[place], lost, row_ids)
            if rewritten is not None:
                written.add(rewritten.name)


def _whole_parts(folder: Storage, row_ids: RowIds) -> tuple[list[PartRecord], Ids]:
    """The parts that are not damaged, by name, and their ids. A few parts at a time are in memory."""
    parts: list[PartRecord] = []
    ids = Ids()
    with ThreadPoolExecutor(READERS) as threads:
        names = folder.names("records", ".json")
        for start in range(0, len(names), 4 * READERS):
            some = names[start : start + 4 * READERS]
            for name, read in zip(some, threads.map(lambda name: _read_part(folder, name, row_ids), some), strict=True):
                if read is None:
                    folder.delete(name)
                    continue
                record, found = read
                for array in found:
                    ids.add(array, len(parts))
                parts.append(record)
    return parts, ids


def _read_part(folder: Storage, name: str, row_ids: RowIds) -> tuple[PartRecord, list[pa.Array]] | None:
    """The record and the units of work that it accounts for; None when it or a file is damaged: its rows are then made
    again."""
    record = _parsed(folder, name)
    if record is None:
        return None
    found = []
    for file in record.files:
        if folder.size_bytes(file.name) != file.size_bytes:
            return None
        content = folder.read(file.name)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            return None
        kept = pq.ParquetFile(pa.BufferReader(content))
        if file is record.rows:
            found.append(row_ids(kept.read(columns=list(row_ids.columns))))
        else:
            found.append(_flat(kept.read(columns=["row_id"])["row_id"]))
    return record, found


def without_rows(folder: Storage, record: PartRecord, lost: set[str], row_ids: RowIds) -> PartRecord | None:
    """Replace a part by one that holds none of the units in `lost`; None when nothing is left."""
    rows, gone = part_tables(folder, record)
    unwanted = pa.array(sorted(lost), pa.string())
    if rows is not None:
        rows = rows.filter(pc.invert(pc.is_in(row_ids(rows), value_set=unwanted)))
    gone = gone.filter(pc.invert(pc.is_in(gone["row_id"], value_set=unwanted)))
    return replace_part(folder, record, rows, gone, row_ids)


def part_tables(folder: Storage, record: PartRecord) -> tuple[pa.Table | None, pa.Table]:
    """The rows of a part (None when none came out) and its rows dropped or left out (perhaps none)."""
    rows = read_table(folder, record.rows.name) if record.rows else None
    gone = [read_table(folder, file.name).cast(DROPPED) for file in (record.dropped, record.left_out) if file]
    return rows, pa.concat_tables(gone) if gone else DROPPED.empty_table()


def replace_part(
    folder: Storage, record: PartRecord, rows: pa.Table | None, gone: pa.Table, row_ids: RowIds
) -> PartRecord | None:
    """Commit other contents in a part's place; None when there are none.

    The new part is committed before the old one goes. A crash between the two leaves both, or one whose
    hash no longer fits its record; the next `committed_parts` settles either.
    """
    ids = [*_flat(gone["row_id"]).to_pylist(), *(row_ids(rows).to_pylist() if rows is not None else [])]
    if not ids:
        remove_part(folder, record)
        return None
    replacement = write_part(folder, rows if rows is not None else pa.table({}), gone, ids, record.counters)
    if replacement.name != record.name:
        remove_part(folder, record)
    return replacement


def remove_part(folder: Storage, record: PartRecord) -> None:
    """Take a part back; its record goes first, so that a crash leaves orphans and never a broken part."""
    folder.delete(f"records/{record.name}.json")
    for file in record.files:
        folder.delete(file.name)


def remove_orphans(folder: Storage, parts: Sequence[PartRecord]) -> list[str]:
    """Delete part files that no record names; their names."""
    known = {file.name for part in parts for file in part.files}
    folders = ("", DROPPED_ROWS, LEFT_OUT_ROWS)
    orphans = [name for below in folders for name in folder.names(below, ".parquet") if name not in known]
    for name in orphans:
        folder.delete(name)
    for subfolder in (*folders, "records"):
        folder.sweep_temporary(subfolder)
    return orphans


def records_of(table: pa.Table) -> list[PartRecord]:
    """Part records as they travel from workers to the driver: a column of JSON."""
    return [PartRecord.model_validate(json.loads(text)) for text in table["record"].to_pylist()]
