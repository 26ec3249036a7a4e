"""A snapshot counts when all of it is there, unchanged, and cut for as many workers as read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.files import damage
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.learners.snapshot import RECORD, SnapshotDamaged, load, save
from cai_ray.engines.training.checkpoints import Layout
from cai_ray.engines.training.worker_group import Place
from cai_ray.errors import ConfigError
from tests.training_jobs import Bucket

ALONE = Place(rank=0, num_workers=1, local_rank=0, num_local=1)
LAYOUT = Layout(num_workers=1, zero_stage=None)


def write(folder: Path) -> None:
    (folder / "policy").mkdir()
    (folder / "policy" / "state.pt").write_bytes(b"weights")
    (folder / "worker-0.pt").write_bytes(b"random")


def read(storage: Storage, layout: Layout = LAYOUT) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def take(folder: Path) -> None:
        for file in folder.rglob("*.pt"):
            found[file.relative_to(folder).as_posix()] = file.read_bytes()

    load(ALONE, storage, "step-1.a1", layout, take)
    return found


@pytest.mark.parametrize("kind", [Storage, Bucket])
def test_what_was_written_is_read_also_from_elsewhere(kind: type[Storage], tmp_path: Path) -> None:
    storage = kind(str(tmp_path / "stage"))
    files = save(ALONE, storage, "step-1.a1", LAYOUT, write)
    assert {file.name.removeprefix("snapshots/step-1.a1/") for file in files} == {
        "policy/state.pt",
        "worker-0.pt",
        RECORD,
    }
    assert damage(storage, files) is None
    assert read(storage) == {"policy/state.pt": b"weights", "worker-0.pt": b"random"}
    assert save(ALONE, storage, "step-1.a1", LAYOUT, write) == files  # in place of what was there


def test_damage_and_absence_are_said(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(SnapshotDamaged, match=r"learners\.json is missing"):
        read(storage)
    save(ALONE, storage, "step-1.a1", LAYOUT, write)
    (tmp_path / "snapshots" / "step-1.a1" / "policy" / "state.pt").write_bytes(b"Weights")
    with pytest.raises(SnapshotDamaged, match=r"policy/state\.pt has changed"):
        read(storage)


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    save(ALONE, storage, "step-1.a1", LAYOUT, write)
    with pytest.raises(ConfigError, match="without DeepSpeed, and the recipe now says num_workers=2, zero_stage=2"):
        read(storage, Layout(num_workers=2, zero_stage=2))
