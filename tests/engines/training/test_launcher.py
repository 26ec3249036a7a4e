"""The launcher's own decisions, without workers: what is refused, what is already done, how metrics are told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.files import files_below, record_file
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.arguments import Device
from cai_ray.engines.training.attempt import (
    Superseded,
    Verdict,
    begin,
    check_owner,
    end,
    failure,
    tell_failure,
)
from cai_ray.engines.training.checkpoints import CheckpointRecord, Layout
from cai_ray.engines.training.job import TRAINED, TrainedRecord
from cai_ray.engines.training.launcher import saved_model, train
from cai_ray.engines.training.watch import not_finite
from cai_ray.engines.training.worker import layout_of, resume_from
from cai_ray.errors import ConfigError
from tests.training_jobs import TinyTraining, tiny_job

NO_CLUSTER = ClusterConfig(address="nowhere:1")  # an attempt to use it would fail


def save_model(folder: Path, fingerprint: str = "f" * 32) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    files = files_below(folder / "model")
    record = TrainedRecord(
        fingerprint=fingerprint,
        num_steps=8,
        metrics={"loss": 1.5},
        files=tuple(record_file(folder / "model", file, "model") for file in files),
    )
    Storage(str(folder)).write(TRAINED, record.model_dump_json().encode())


def test_a_saved_model_needs_no_cluster(tmp_path: Path) -> None:
    save_model(tmp_path)
    model = train(tiny_job(tmp_path, TinyTraining("")), NO_CLUSTER)
    assert (model.num_steps, model.metrics) == (8, {"loss": 1.5})
    assert [file.name for file in model.files] == ["model/model.safetensors"]


def test_a_damaged_or_foreign_model_does_not_count(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, TinyTraining(""))
    save_model(tmp_path)
    assert saved_model(replace(job, fingerprint="0" * 32)) is None
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weight")
    assert saved_model(job) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_examples": 0}, "no examples"),
        ({"keep": "best", "evaluate": False}, "no eval rows"),
    ],
)
def test_bad_jobs_are_refused_before_anything_starts(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(replace(tiny_job(tmp_path, TinyTraining("")), **changes), NO_CLUSTER)


@pytest.mark.parametrize("workers", [{"num_workers": 3}, {"micro_batch_size": 5}, {"offload_weights": True}])
def test_bad_workers_are_refused_before_anything_starts(tmp_path: Path, workers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        train(tiny_job(tmp_path, TinyTraining(""), **workers), NO_CLUSTER)


def test_checkpoints_cut_for_other_workers_are_refused(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, TinyTraining(""))
    layout = Layout(num_workers=2, zero_stage=3)
    record = CheckpointRecord(
        step=2, fingerprint=job.fingerprint, layout=layout, is_last=False, eval_loss=None, files=()
    )
    (tmp_path / "checkpoints" / record.name).mkdir(parents=True)
    checkpoints.write_record(job.folder, record)
    with pytest.raises(ConfigError, match=r"num_workers=2, zero_stage=3.*num_workers=1, without DeepSpeed"):
        resume_from(job, layout_of(job, Device(is_gpu=False, has_bf16=False)))
    assert resume_from(job, layout) == (record, [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_gone_bad_are_seen(value: float) -> None:
    for name in ("loss", "grad_norm", "eval_loss"):
        assert name in str(not_finite({"epoch": 1.0, name: value}))
    assert not_finite({"loss": 1.0, "grad_norm": 0.0, "entropy": value}) is None


def test_only_the_newest_run_may_write(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    first = begin(folder)
    check_owner(folder, first)
    second = begin(folder)
    check_owner(folder, second)
    with pytest.raises(Superseded, match="once at a time"):
        check_owner(folder, first)
    end(folder)
    with pytest.raises(Superseded):
        check_owner(folder, second)


def test_a_failure_is_told_to_its_own_attempt_only(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    first = begin(folder)
    assert failure(folder, first) is None
    tell_failure(folder, first, Verdict(outcome="bad_config", message="no"))
    told = failure(folder, first)
    assert told is not None and told.message == "no"
    assert failure(folder, begin(folder)) is None
