"""Write what load_prompts reads.  records -> Prompt artifact.

Reading is fast next to everything after it and bound by one reader, so it runs in the driver and an
interrupted load starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.dropped import DROPPED
from cai_ray.fingerprint import settings
from cai_ray.rows import PROMPT
from cai_ray.seeding import digest
from cai_ray.stages.context import Context
from cai_ray.stages.inputs.sources import STAGE, Config, Loaded, load

RECORDS_PER_PART = 5_000


def source_ids(prompts: pa.Table) -> pa.Array:
    """The records that Prompt rows answer."""
    return prompts["source_row"]


def input_identity(config: Config) -> dict[str, Any]:
    """Name, size and the hash of both ends of each local input file: another file, other prompts (G4)."""
    found: dict[str, Any] = {}
    for source in config.all_sources():
        path = Path(source.path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found[source.source] = [_file_identity(file) for file in files if file.is_file()]
    return found


def _file_identity(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(2**20)
        stream.seek(max(0, size - 2**20))
        tail = stream.read()
    return {"name": file.name, "size": size, "ends": digest(head.hex(), tail.hex()).hex()}


def run(config: Config, context: Context) -> Artifact:
    """Load every source; each record ends as one Prompt or one Dropped row."""
    opened = open_stage(
        context.folder(STAGE),
        STAGE,
        context.fingerprints[STAGE],
        settings(config),
        {},
        source_ids,
        ("source_row",),
    )
    if isinstance(opened, Artifact):
        return opened
    for part in opened.parts:
        remove_part(opened.folder, part)
    input_ids: list[str] = []
    for batch in _batches(load(config, context.seed)):
        rows = [loaded.row for loaded in batch if not loaded.dropped]
        dropped = [loaded.row for loaded in batch if loaded.dropped]
        ids = [row["source_row"] for row in rows] + [row["row_id"] for row in dropped]
        write_part(opened.folder, pa.Table.from_pylist(rows, PROMPT), pa.Table.from_pylist(dropped, DROPPED), ids)
        input_ids += ids
    return opened.commit(pa.array(input_ids, pa.string()))


def _batches(loaded: Iterator[Loaded]) -> Iterator[list[Loaded]]:
    while batch := list(islice(loaded, RECORDS_PER_PART)):
        yield batch
