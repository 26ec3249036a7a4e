"""Checkpoints count only whole: truncated, changed and half-written ones are passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.artifacts.files import damage, download, files_below, record_file, upload
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.checkpoints import FOLDER, CheckpointRecord, Layout

FINGERPRINT = "a" * 32
LAYOUT = Layout(num_workers=1, zero_stage=None)


def save(folder: Path, step: int, eval_loss: float | None = None, fingerprint: str = FINGERPRINT) -> CheckpointRecord:
    """A checkpoint of two small files, committed as a worker does."""
    target = folder / FOLDER / f"checkpoint-{step}"
    (target / "global_step").mkdir(parents=True)
    (target / "model.safetensors").write_bytes(b"weights" * step)
    (target / "global_step" / "optimizer.pt").write_bytes(b"states" * 100)
    prefix = f"{FOLDER}/{target.name}"
    record = CheckpointRecord(
        step=step,
        fingerprint=fingerprint,
        layout=LAYOUT,
        is_last=False,
        eval_loss=eval_loss,
        files=tuple(record_file(target, file, prefix) for file in files_below(target)),
    )
    checkpoints.write_record(Storage(str(folder)), record)
    return record


def newest(folder: Path) -> int | None:
    record, _ = checkpoints.newest_whole(Storage(str(folder)), FINGERPRINT)
    return record.step if record else None


def test_the_newest_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in (2, 10, 4):
        save(tmp_path, step)
    assert newest(tmp_path) == 10


@pytest.mark.parametrize("fault", ["truncated", "changed", "missing", "record", "unrecorded"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, fault: str) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4)
    file = tmp_path / FOLDER / "checkpoint-4" / "global_step" / "optimizer.pt"
    record = tmp_path / FOLDER / "checkpoint-4.json"
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif fault == "changed":
        file.write_bytes(b"S" + file.read_bytes()[1:])
    elif fault == "missing":
        file.unlink()
    elif fault == "record":
        record.write_bytes(record.read_bytes()[:20])
    else:
        record.unlink()
    found, problems = checkpoints.newest_whole(Storage(str(tmp_path)), FINGERPRINT)
    assert found is not None
    assert found.step == 2
    if fault in ("truncated", "changed", "missing"):
        assert "step 4" in problems[0] and "optimizer.pt" in problems[0]


def test_all_damaged_starts_over(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    assert newest(tmp_path) is None
    assert not (tmp_path / FOLDER / "checkpoint-2").exists()


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    save(tmp_path, 2, fingerprint="b" * 32)
    assert newest(tmp_path) is None


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, loss in ((2, 3.0), (4, 1.0), (6, 2.0), (8, 2.5)):
        save(tmp_path, step, loss)
    storage = Storage(str(tmp_path))
    assert checkpoints.rotate(storage, FINGERPRINT, 2, keep_best=True) == ["checkpoint-2"]
    best = checkpoints.best_whole(storage, FINGERPRINT)
    assert best is not None
    assert best.step == 4
    assert checkpoints.rotate(storage, FINGERPRINT, 2, keep_best=False) == ["checkpoint-4"]
    assert [record.step for record in checkpoints.records(storage, FINGERPRINT)] == [8, 6]


def test_a_damaged_best_gives_way_to_the_next_best(tmp_path: Path) -> None:
    for step, loss in ((2, 3.0), (4, 1.0), (6, 2.0)):
        save(tmp_path, step, loss)
    (tmp_path / FOLDER / "checkpoint-4" / "model.safetensors").write_bytes(b"x")
    best = checkpoints.best_whole(Storage(str(tmp_path)), FINGERPRINT)
    assert best is not None
    assert best.step == 6


def test_half_written_folders_are_swept(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / "checkpoint-4").mkdir()
    assert checkpoints.sweep(Storage(str(tmp_path))) == ["checkpoint-4"]
    assert newest(tmp_path) == 2


def test_upload_and_download_are_inverse(tmp_path: Path) -> None:
    record = save(tmp_path / "node", 2)
    source, elsewhere = tmp_path / "node" / FOLDER / "checkpoint-2", Storage(str(tmp_path / "bucket"))
    for file in files_below(source):
        upload(source, file, elsewhere, f"{FOLDER}/checkpoint-2")
    assert damage(elsewhere, record.files) is None
    download(elsewhere, record.files, tmp_path / "other", f"{FOLDER}/checkpoint-2")
    names = [file.relative_to(source) for file in files_below(source)]
    assert [file.relative_to(tmp_path / "other") for file in files_below(tmp_path / "other")] == names
    assert all((tmp_path / "other" / name).read_bytes() == (source / name).read_bytes() for name in names)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_no_truncation_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("storage")
    file = folder / "model" / "weights"
    file.parent.mkdir()
    file.write_bytes(content)
    record = record_file(file.parent, file, "model")
    storage = Storage(str(folder))
    assert damage(storage, [record]) is None
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert damage(storage, [record]) is not None
