"""The Trainer's callback: every step measured and judged, every save made a checkpoint that counts.

Tested in tests/engines/training/test_watch.py and tests/cluster/test_training.py.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.engines.conversations.ending import is_asked_to_stop
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.attempt import Attempt, check_owner
from cai_ray.engines.training.checkpoints import CheckpointRecord, Layout
from cai_ray.engines.training.worker_group import Place
from cai_ray.metrics.training_keys import EVAL_LOSS, EXAMPLES_PER_S, LOSS, TOKENS_PER_S

if TYPE_CHECKING:
    from cai_ray.engines.training.job import TrainingJob

STOP_POLL_S = 1.0
JUDGED = (LOSS, "grad_norm", EVAL_LOSS)


def not_finite(logs: dict[str, Any]) -> str | None:
    """ "loss is nan" when a judged number is not finite, else None."""
    for name in JUDGED:
        value = logs.get(name)
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}"
    return None


def watch_of(
    job: TrainingJob, attempt: Attempt, place: Place, layout: Layout, scratch: Path, metrics: MetricsFile | None
) -> Any:
    """A TrainerCallback (its base class needs transformers) with `problem`: why it stopped the training, or None.

    All workers see the same numbers and so stop at the same step; `is_stopped`: the driver was asked to end, and a
    checkpoint is saved.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # untyped here
        problem: str | None = None
        is_stopped = False

        def __init__(self) -> None:
            self._began = time.monotonic()
            self._num_tokens = 0.0
            self._eval: tuple[int, float] | None = None  # step, loss
            self._asked_at = 0.0  # whether to stop, by time.monotonic
            self._is_warned = False  # that a node of a worker goes: one checkpoint is saved for it

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            import ray.train

            # A barrier: every worker asks at every step.
            if ray.train.get_preemption_info() is not None and not self._is_warned:
                self._is_warned = control.should_save = True
                if metrics is not None:
                    metrics.event("a node is taken back: a checkpoint is saved", step=state.global_step)
            if place.agree(self._is_asked_to_stop):
                self.is_stopped = control.should_save = control.should_training_stop = True
                if metrics is not None:
                    metrics.event("the driver was asked to end: a checkpoint is saved", step=state.global_step)
            return control

        def _is_asked_to_stop(self) -> bool:
            if time.monotonic() - self._asked_at < STOP_POLL_S:
                return False
            self._asked_at = time.monotonic()
            return is_asked_to_stop()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> Any:
            if LOSS not in logs and EVAL_LOSS not in logs:
                return control  # the summary at the end
            if EVAL_LOSS in logs:
                self._eval = (state.global_step, logs[EVAL_LOSS])
            if metrics is not None:
                metrics.write(step=state.global_step, num_steps=state.max_steps, **self._measured(logs))
            problem = not_finite(logs)
            if problem is not None:
                known = checkpoints.records(job.folder, job.fingerprint)
                good = f"{job.folder.shown}/{checkpoints.FOLDER}/{known[0].name}" if known else "none yet"
                self.problem = f"{problem} at step {state.global_step}; the last good checkpoint: {good}"
                control.should_training_stop = True
                control.should_save = control.should_evaluate = False
            return control

        def _measured(self, logs: dict[str, Any]) -> dict[str, Any]:
            numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            found: dict[str, float | None] = {
                n: v if math.isfinite(v) else None for n, v in numbers.items()
            }  # no NaN in JSON
            if LOSS not in logs:
                return found
            # The last batch of an epoch may be smaller and counts as a whole one; `tokens_per_s` is exact.
            duration_s = max(time.monotonic() - self._began, 1e-9)
            found[EXAMPLES_PER_S] = round(job.optim.batch_size / duration_s, 3)
            if "num_tokens" in numbers:
                found[TOKENS_PER_S] = round((numbers["num_tokens"] - self._num_tokens) / duration_s, 1)
                self._num_tokens = numbers["num_tokens"]
            return found

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            folder = scratch / f"checkpoint-{state.global_step}"
            (scratch / "README.md").unlink(missing_ok=True)  # TRL's own model card, of a model that is none yet
            files = checkpoints.commit_files(place, job.folder, folder, f"{checkpoints.FOLDER}/{folder.name}")
            if not job.folder.is_local and place.local_rank == 0:
                checkpoints.clear_scratch(scratch, keep=folder.name)
            if place.is_first:
                check_owner(job.folder, attempt)
                evaluated = self._eval is not None and self._eval[0] == state.global_step
                record = CheckpointRecord(
                    step=state.global_step,
                    fingerprint=job.fingerprint,
                    layout=layout,
                    is_last=state.global_step >= state.max_steps,
                    eval_loss=self._eval[1] if evaluated and self._eval is not None else None,
                    files=tuple(files),
                )
                checkpoints.write_record(job.folder, record)
                checkpoints.rotate(job.folder, job.fingerprint, job.workers.keep_checkpoints, job.keep == "best")
                if metrics is not None:
                    metrics.flush()
            return control

    return Watch()
