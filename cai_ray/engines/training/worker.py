"""What runs on every training worker: build the Trainer, resume, train, watch every step, save the model.

Ray Train answers an exception as it does a lost worker: it starts all workers anew. What a new start cannot mend
(a bad config, a bug, numbers gone bad) therefore ends as a verdict that the worker returns.

Tested in tests/cluster/test_training.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_ray.artifacts.files import download, files_below, record_file, upload
from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.models.export import export_model
from cai_ray.engines.models.files import has_small_weights, localised
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.arguments import Device, deepspeed_config, trainer_args
from cai_ray.engines.training.attempt import Attempt, Verdict, check_owner, failure, tell_failure
from cai_ray.engines.training.checkpoints import CheckpointRecord, Layout
from cai_ray.engines.training.job import MODEL, TRAINED, TrainedRecord
from cai_ray.engines.training.proof import proof_callback
from cai_ray.engines.training.worker_group import (
    Place,
    device_of_this_worker,
    is_lost_peer,
    place_of_this_worker,
)
from cai_ray.errors import ConfigError
from cai_ray.seeding import stable_id

if TYPE_CHECKING:
    from transformers import Trainer

    from cai_ray.engines.training.job import TrainingJob


def train_on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's `train_loop_per_worker`; `config` has `job` (TrainingJob) and `attempt` (Attempt)."""
    job, attempt = config["job"], config["attempt"]
    if (earlier := failure(job.folder, attempt)) is not None:
        return earlier.model_dump()
    try:
        return _train(job, attempt).model_dump()
    except Exception as error:
        if not is_lost_peer(error):
            is_config = isinstance(error, ConfigError)
            message = str(error) if is_config else traceback.format_exc()
            tell_failure(job.folder, attempt, Verdict(outcome="bad_config" if is_config else "failed", message=message))
        raise  # so that workers waiting for this one are ended; those started next find the verdict


def _train(job: TrainingJob, attempt: Attempt) -> Verdict:
    place = place_of_this_worker()
    device = device_of_this_worker()
    metrics = MetricsFile(job.folder, attempt.number, attempt.started_at) if place.is_first else None
    try:
        return _resume_and_save(job, attempt, place, device, metrics)
    finally:
        if metrics is not None:
            metrics.close()


def _resume_and_save(
    job: TrainingJob, attempt: Attempt, place: Place, device: Device, metrics: MetricsFile | None
) -> Verdict:
    layout, scratch = layout_of(job, device), scratch_folder(job.folder)
    resume, problems = place.agree(lambda: resume_from(job, layout))
    if metrics is not None:
        for problem in problems:
            metrics.event(problem)
    if not job.folder.is_local and place.local_rank == 0:
        checkpoints.clear_scratch(scratch, keep=resume.name if resume else None)
        if resume is not None:
            download(job.folder, resume.files, scratch / resume.name, f"{checkpoints.FOLDER}/{resume.name}")
    place.wait()
    if resume is None or not resume.is_last:
        verdict = _fit(job, attempt, place, device, layout, scratch, resume, metrics)
        if verdict.outcome != "trained":
            return verdict
    if metrics is not None:
        check_owner(job.folder, attempt)
        _save_model(job, scratch, metrics)
    return Verdict(outcome="trained")


def layout_of(job: TrainingJob, device: Device) -> Layout:
    zero_stage = job.workers.zero_stage if deepspeed_config(job.workers, device) else None
    return Layout(num_workers=job.workers.num_workers, zero_stage=zero_stage)


def scratch_folder(folder: Storage) -> Path:
    """Where the Trainer writes checkpoints: the storage itself, or a folder of this node to upload from."""
    if folder.is_local:
        return Path(folder.path(checkpoints.FOLDER))
    return Path(tempfile.gettempdir()) / "cai_ray" / stable_id(folder.location) / checkpoints.FOLDER


def resume_from(job: TrainingJob, layout: Layout) -> tuple[CheckpointRecord | None, list[str]]:
    """Raises ConfigError when the newest checkpoint was cut for other workers."""
    checkpoints.sweep(job.folder)
    record, problems = checkpoints.newest_whole(job.folder, job.fingerprint)
    if record is not None and record.layout != layout and not record.is_last:
        raise ConfigError(
            f"the checkpoints in {job.folder.shown} are of {record.layout}, and the recipe now says {layout}; "
            f"DeepSpeed cannot resume across these. Set them back, or delete {checkpoints.FOLDER}/ to train anew"
        )
    return record, problems


def _fit(
    job: TrainingJob,
    attempt: Attempt,
    place: Place,
    device: Device,
    layout: Layout,
    scratch: Path,
    resume: CheckpointRecord | None,
    metrics: MetricsFile | None,
) -> Verdict:
    import torch

    from cai_ray.engines.training.watch import watch_of

    if not device.is_gpu:
        torch.set_num_threads(job.workers.threads or max(1, (os.cpu_count() or 1) // place.num_local))
    if layout.zero_stage is not None:
        import deepspeed  # type: ignore[import-untyped]

        # Before a model is loaded: until then, DeepSpeed takes every CPU worker for the only one, also when it is to
        # shard what is loaded (ZeRO-3). It finds Ray Train's process group.
        deepspeed.init_distributed()
    tensorboard = scratch.parent / "tensorboard"
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(tensorboard))
    trainer: Trainer = job.make_trainer(
        trainer_args(
            output_dir=str(scratch),
            seed=job.seed,
            optim=job.optim,
            workers=job.workers,
            device=device,
            evaluate=job.evaluate,
            run_name=job.stage,
            is_small=has_small_weights(localised(job.model).path),
        )
    )
    watch = watch_of(job, attempt, place, layout, scratch, metrics)
    trainer.add_callback(watch)
    if job.proof is not None:
        trainer.add_callback(proof_callback(job.proof, trainer, device, metrics))
    if metrics is not None and resume is not None:
        metrics.event(f"resumed from the checkpoint of step {resume.step}", step=resume.step)
    trainer.train(resume_from_checkpoint=str(scratch / resume.name) if resume else None)
    if place.is_first and not job.folder.is_local and tensorboard.is_dir():
        for file in files_below(tensorboard):
            upload(tensorboard, file, job.folder, tensorboard.name)
    if watch.is_stopped:
        return Verdict(outcome="stopped")
    if watch.problem is None:
        return Verdict(outcome="trained")
    return Verdict(outcome="diverged", message=watch.problem)


def _save_model(job: TrainingJob, scratch: Path, metrics: MetricsFile) -> None:
    """The last or the best checkpoint's model as <stage>/model/, and its record, written last."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    last = checkpoints.records(job.folder, job.fingerprint)[0]
    chosen = last
    if job.keep == "best":
        chosen = checkpoints.best_whole(job.folder, job.fingerprint) or last
    source, prefix = scratch / chosen.name, f"{checkpoints.FOLDER}/{chosen.name}"
    if not job.folder.is_local:
        download(job.folder, chosen.files, source, prefix)
    model = scratch.parent / MODEL
    # Under ZeRO-3 transformers would shard whatever is loaded now, with workers that no longer take part.
    unset_hf_deepspeed_config()
    export_model(source, model, job.model_card)
    found = metrics.last_values(chosen.step)
    if job.finish is not None:
        found |= job.finish(model)
    files = files_below(model)
    recorded = tuple(record_file(model, file, MODEL) for file in files)
    if not job.folder.is_local:
        job.folder.delete_folder(MODEL)
        for file in files:
            upload(model, file, job.folder, MODEL)
        shutil.rmtree(scratch.parent)
    record = TrainedRecord(fingerprint=job.fingerprint, num_steps=last.step, metrics=found, files=recorded)
    job.folder.write(TRAINED, record.model_dump_json(indent=2).encode())
