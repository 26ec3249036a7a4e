"""Snapshots of the learners: a folder of states that counts with its record of sizes and hashes, written last.

<stage>/snapshots/<name>/ holds policy/, value/, worker-<rank>.pt and RECORD. On a local storage (one that all workers
see) they write right there; elsewhere into a folder of their node, which is uploaded.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cai_ray.artifacts.files import damage, download, record_file
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.checkpoints import Layout
from cai_ray.engines.training.worker_group import Place
from cai_ray.errors import ConfigError
from cai_ray.seeding import stable_id

FOLDER = "snapshots"
RECORD = "learners.json"


class SnapshotRecord(Config):
    """What a snapshot holds."""

    layout: Layout
    files: tuple[FileRecord, ...]  # names relative to the stage's folder


class SnapshotDamaged(Exception):
    """The snapshot is not there, or not as it was written; the message names the file."""


def save(place: Place, stage: Storage, name: str, layout: Layout, write: Callable[[Path], None]) -> list[FileRecord]:
    """All workers call it: `write` puts this worker's states into a folder. The files, the record among them."""
    prefix = f"{FOLDER}/{name}"
    with folder_of_node(place, stage, prefix) as folder:
        write(folder)
        files = checkpoints.commit_files(place, stage, folder, prefix)
    if place.is_first:
        record = SnapshotRecord(layout=layout, files=tuple(files)).model_dump_json(indent=2).encode()
        stage.write(f"{prefix}/{RECORD}", record)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / RECORD
            copy.write_bytes(record)
            files.append(record_file(Path(scratch), copy, prefix))
    place.wait()
    return files


def load(place: Place, stage: Storage, name: str, layout: Layout, read: Callable[[Path], None]) -> None:
    """All workers call it: `read` takes this worker's states out of a folder.

    Raises SnapshotDamaged, and ConfigError for a snapshot of another layout.
    """
    prefix = f"{FOLDER}/{name}"
    record, problem = place.agree(lambda: _verified(stage, prefix, layout))
    if problem is not None or record is None:
        raise SnapshotDamaged(f"snapshot {stage.shown}/{prefix}: {problem}")
    with folder_of_node(place, stage, prefix, is_new=False) as folder:
        if not stage.is_local and place.local_rank == 0:
            download(stage, record.files, folder, prefix)
        place.wait()
        read(folder)
        place.wait()


def _verified(stage: Storage, prefix: str, layout: Layout) -> tuple[SnapshotRecord | None, str | None]:
    name = f"{prefix}/{RECORD}"
    if not stage.exists(name):
        return None, f"{RECORD} is missing"
    record = SnapshotRecord.model_validate_json(stage.read(name))
    if record.layout != layout:
        raise ConfigError(
            f"the snapshot {stage.shown}/{prefix} is of {record.layout}, and the recipe now says {layout}; "
            "DeepSpeed cannot resume across these. Set them back, or delete the stage's folder to train anew"
        )
    return record, damage(stage, record.files)


@contextmanager
def folder_of_node(place: Place, stage: Storage, prefix: str, is_new: bool = True) -> Iterator[Path]:
    """Where this node's workers put or find the files."""
    if stage.is_local:
        folder = Path(stage.path(prefix))
        owns = place.is_first
    else:
        folder = Path(tempfile.gettempdir()) / "cai_ray" / stable_id(stage.location, prefix)
        owns = place.local_rank == 0
    if owns and (is_new or not stage.is_local):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    place.wait()
    yield folder
    if owns and not stage.is_local:
        shutil.rmtree(folder)
