"""Checkpoints that verify: a Hugging Face Trainer's own folders, counted only with a record of sizes and hashes.

`checkpoints/checkpoint-<step>/` holds the files, `checkpoints/checkpoint-<step>.json` the record, written last
(guarantee G3). On a local storage the Trainer writes right there; elsewhere it writes into a scratch folder
on each node, and every node uploads what it has.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

from cai_ray.artifacts import recorded
from cai_ray.artifacts.files import damage, files_below, record_file, upload
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.engines.training.worker_group import Place

FOLDER = "checkpoints"
_NAME = re.compile(r"checkpoint-(\d+)")


class Layout(Config):
    """How the states in a checkpoint are cut: another layout cannot resume from it."""

    num_workers: int
    zero_stage: int | None  # None: without DeepSpeed

    def __str__(self) -> str:
        zero = "without DeepSpeed" if self.zero_stage is None else f"zero_stage={self.zero_stage}"
        return f"num_workers={self.num_workers}, {zero}"


class CheckpointRecord(Config):
    """One checkpoint that counts."""

    step: int
    fingerprint: str
    layout: Layout
    is_last: bool  # of the last step: nothing is left to train
    eval_loss: float | None
    files: tuple[FileRecord, ...]  # names relative to the stage's folder

    @property
    def name(self) -> str:
        return f"checkpoint-{self.step}"


def clear_scratch(scratch: Path, keep: str | None) -> None:
    """Delete this node's copies of all checkpoints but `keep`."""
    for folder in scratch.glob("checkpoint-*"):
        if folder.name != keep:
            shutil.rmtree(folder)


def write_record(storage: Storage, record: CheckpointRecord) -> None:
    """From here on the checkpoint counts."""
    recorded.write(storage, FOLDER, record.name, record)


def records(storage: Storage, fingerprint: str) -> list[CheckpointRecord]:
    """The recorded checkpoints of this training, newest first; their files are not looked at."""
    found = recorded.read_all(storage, FOLDER, CheckpointRecord)
    return sorted((one for one in found if one.fingerprint == fingerprint), key=lambda record: -record.step)


def newest_whole(storage: Storage, fingerprint: str) -> tuple[CheckpointRecord | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with newer ones; these are deleted."""
    problems: list[str] = []
    for record in records(storage, fingerprint):
        problem = damage(storage, record.files)
        if problem is None:
            return record, problems
        problems.append(f"checkpoint of step {record.step} is damaged ({problem}) and passed over")
        recorded.delete(storage, FOLDER, record.name)
    return None, problems


def best_whole(storage: Storage, fingerprint: str) -> CheckpointRecord | None:
    """Of the checkpoints that verify, the one with the lowest eval loss; the earlier one of equals."""
    for record in sorted(records(storage, fingerprint), key=_badness):
        if damage(storage, record.files) is None:
            return record
    return None


def _badness(record: CheckpointRecord) -> tuple[float, int]:
    return (math.inf if record.eval_loss is None else record.eval_loss, record.step)


def rotate(storage: Storage, fingerprint: str, num_keep: int, keep_best: bool) -> list[str]:
    """Delete all but the newest `num_keep`, and the best by eval loss if asked; names of the deleted."""
    known = records(storage, fingerprint)
    kept = {record.name for record in known[:num_keep]}
    if keep_best and known:
        kept.add(min(known, key=_badness).name)
    gone = [record.name for record in known if record.name not in kept]
    for name in gone:
        recorded.delete(storage, FOLDER, name)
    return gone


def sweep(storage: Storage) -> list[str]:
    """Delete checkpoint folders without a record, left by a save that was cut off; their names."""
    return recorded.sweep(storage, FOLDER, _NAME)


def commit_files(place: Place, stage: Storage, folder: Path, prefix: str) -> list[FileRecord]:
    """Hash the files in `folder`, and upload them where the storage is elsewhere; all records on every worker.

    The workers share the files among them: all workers where they see one folder, those of a node otherwise.
    """
    is_local = stage.is_local
    index, num_sharing = (place.rank, place.num_workers) if is_local else (place.local_rank, place.num_local)
    place.wait()  # the last worker has written its states
    mine = []
    for file in files_below(folder)[index::num_sharing]:
        mine.append(record_file(folder, file, prefix))
        if not is_local:
            upload(folder, file, stage, prefix)
    found = sorted(place.gather(mine), key=lambda record: record.name)
    place.wait()  # nobody's files are deleted while another still reads them
    return found
