"""One launcher for every training stage: Ray Train, DeepSpeed, checkpoints that verify, one saved model.

A stage brings a picklable `MakeTrainer` that builds its Hugging Face Trainer on every worker; everything else
(workers, sharding, checkpoints, resuming, metrics, saving) is done here and in `worker.py`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cai_ray.artifacts.files import damage
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.cluster import ClusterConfig, connected, num_gpus
from cai_ray.engines.conversations.ending import ask_to_stop
from cai_ray.engines.training.arguments import (
    Device,
    deepspeed_config,
    plan_batches,
)
from cai_ray.engines.training.attempt import Attempt, Verdict, begin, end, failure
from cai_ray.engines.training.job import (
    MODEL,
    TRAINED,
    TrainedModel,
    TrainedRecord,
    TrainingDiverged,
    TrainingFailed,
    TrainingJob,
)
from cai_ray.engines.training.ray_train import ENVIRONMENT, check_room, torch_trainer
from cai_ray.engines.training.worker import train_on_worker
from cai_ray.errors import ConfigError, EngineGaveUp, Stopped
from cai_ray.progress.trackers import refuse_missing
from cai_ray.progress.training import TrainingProgress
from cai_ray.stopping import draining

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

logger = logging.getLogger(__name__)


def train(job: TrainingJob, cluster: ClusterConfig) -> TrainedModel:
    """Train and save the model, from the newest checkpoint that verifies; nothing to do when it is saved and whole.

    Raises ConfigError (wrong batch arithmetic, no eval rows to choose the best by, or what `make_trainer` finds),
    TrainingDiverged, TrainingFailed, EngineGaveUp when more than `workers.max_failures` workers were lost, and Stopped
    after SIGTERM or Ctrl-C, with a checkpoint of the step that it came in where one can be saved in time.
    """
    _check(job)
    job = replace(job, folder=Storage(job.folder.path())) if job.folder.is_local else job
    if (done := saved_model(job)) is not None:
        return done
    attempt = begin(job.folder)
    with connected(cluster), TrainingProgress(job.folder, job.stage):
        verdict = _fit(job, attempt, cluster)
    end(job.folder)
    if verdict.outcome == "bad_config":
        raise ConfigError(verdict.message)
    if verdict.outcome == "diverged":
        raise TrainingDiverged(f"{job.stage}: {verdict.message}. Lower learning_rate or look at the rows of that step")
    if verdict.outcome == "failed":
        raise TrainingFailed(f"{job.stage}: a worker failed\n{verdict.message}")
    model = saved_model(job)
    if model is None:
        raise TrainingFailed(f"{job.stage}: the saved model in {job.folder.shown}/{MODEL} does not verify")
    return model


def saved_model(job: TrainingJob) -> TrainedModel | None:
    """The model when it is saved, whole and this job's; None when there is anything left to do."""
    if not job.folder.exists(TRAINED):
        return None
    record = TrainedRecord.model_validate_json(job.folder.read(TRAINED))
    if record.fingerprint != job.fingerprint:
        return None
    problem = damage(job.folder, record.files)
    if problem is not None:
        logger.warning("%s: the saved model is damaged (%s) and is made again", job.stage, problem)
        return None
    return TrainedModel(job.folder / MODEL, record.files, record.num_steps, record.metrics)


def _check(job: TrainingJob) -> None:
    """What can be wrong without a look at the cluster."""
    if job.num_examples < 1:
        raise ConfigError(f"{job.stage}: there are no examples to train on")
    if job.keep == "best" and not job.evaluate:
        raise ConfigError(f'{job.stage}: keep is "best", but there are no eval rows; set it to "last" or hold rows out')
    plan_batches(job.optim.batch_size, job.workers)
    deepspeed_config(job.workers, Device(is_gpu=False, has_bf16=False))
    refuse_missing(job.workers.report_to)


def _fit(job: TrainingJob, attempt: Attempt, cluster: ClusterConfig) -> Verdict:
    """Run the workers to their verdict."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    use_gpu = num_gpus() > 0
    check_room(job.workers, use_gpu, can_grow=bool(cluster.address or os.environ.get("RAY_ADDRESS")))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="cai_ray-train-", ignore_cleanup_errors=True) as scratch:
        trainer = torch_trainer(
            train_on_worker,
            {"job": job, "attempt": attempt},
            name=job.stage,
            workers=job.workers,
            use_gpu=use_gpu,
            scratch=scratch,
        )
        try:
            with draining(ask_to_stop):
                result = _fitted(trainer)
        except TrainingFailedError as error:
            if (verdict := failure(job.folder, attempt)) is not None:
                return verdict
            raise EngineGaveUp(
                f"{job.stage}: workers were lost more than max_failures={job.workers.max_failures} times; "
                f"checkpoints stay, a re-run goes on. The last: {error}"
            ) from error
    return Verdict.model_validate(result.return_value)


def _fitted(trainer: TorchTrainer) -> Any:
    try:
        return trainer.fit()
    except KeyboardInterrupt as cut:  # Ray raises one of its own in the place of ours
        raise cut if isinstance(cut, Stopped) else Stopped("") from cut
