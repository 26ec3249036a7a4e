"""PPO's learners, as the driver sees them: policy and value model that learn, reference and reward model that do not.

Behind them are Ray Train workers (`policy_worker`) that wait at a hub (`policy_hub`) for commands. Nothing here runs a
model. The caller has Ray connected (`cluster.connected`).

Tested in tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.cluster import num_gpus
from cai_ray.engines.learners.hub import Hub, Reply
from cai_ray.engines.learners.job import LearnersDiverged, LearnersJob, LearnersLost, check
from cai_ray.engines.learners.packing import Floats, Ids, Packed, pack, unpack
from cai_ray.engines.learners.worker import serve
from cai_ray.engines.training.job import TrainingFailed
from cai_ray.engines.training.ray_train import ENVIRONMENT, check_room, torch_trainer
from cai_ray.errors import ConfigError, EngineGaveUp

PLACEHOLDER = (0,)  # the token that a score stands for


@dataclass(frozen=True)
class _Fit:
    """Runs Ray Train to its end, inside the hub."""

    job: LearnersJob
    use_gpu: bool
    scratch: str

    def __call__(self, hub: Any) -> None:
        torch_trainer(
            serve,
            {"job": self.job, "hub": hub},
            name=self.job.stage,
            workers=self.job.workers,
            use_gpu=self.use_gpu,
            scratch=self.scratch,
        ).fit()


class Learners:
    """A handle. Calls block, and every one may raise LearnersLost: then `load` a snapshot and do the step again.

    They also raise ConfigError (models that do not fit), TrainingFailed (a bug on a worker), EngineGaveUp (workers
    lost more than `workers.max_failures` times, or a time limit).

    Attributes:
        refusals: why updates of the last `update` were skipped.
    """

    def __init__(self, job: LearnersJob, *, can_grow: bool = False) -> None:
        """`can_grow`: the cluster may get more nodes when it has too few. Raises ConfigError."""
        check(job)
        # A relative folder means what it means here: workers have working directories of their own.
        self._job = replace(job, folder=Storage(job.folder.path())) if job.folder.is_local else job
        self._can_grow = can_grow
        self.refusals: list[str] = []
        self._hub: Any = None
        self._group = ""
        self._scratch = ""

    def start(self, resume: str | None = None) -> None:
        """Start the workers, from the job's models or from a snapshot."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        use_gpu = num_gpus() > 0
        check_room(self._job.workers, use_gpu, self._can_grow or bool(os.environ.get("RAY_ADDRESS")))
        self._scratch = tempfile.mkdtemp(prefix="cai_ray-learners-")
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._hub = (
            ray.remote(Hub)
            .options(num_cpus=0, scheduling_strategy=node, runtime_env={"env_vars": ENVIRONMENT})
            .remote()
        )
        self._hub.run.remote(_Fit(self._job, use_gpu, self._scratch))
        self.load(resume) if resume is not None else self._wait_for_group()

    def close(self) -> None:
        """End the workers; nothing happens when there are none."""
        import ray

        if self._hub is None:
            return
        hub, self._hub = self._hub, None
        with suppress(ray.exceptions.RayError):  # it is gone already
            ray.get(hub.stop.remote())
        ray.kill(hub)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def score(self, episodes: Sequence[Episode], reward_ids: Sequence[Ids] | None) -> list[Scored]:
        """Scores of whole conversations, and per response token log-probabilities (policy, reference) and values.

        Args:
            episodes: >= 1.
            reward_ids: each episode's conversation with its answer in the reward model's tokens, to be scored at the
                last one (`ScoredTokens.encode`). None without a reward model: scores are NaN then.
        """
        packed = _packed(episodes, {})
        conversations = None if reward_ids is None else _scored_at_the_end(reward_ids)
        parts = self._call("score", packed=packed, conversations=conversations)
        columns = {
            name: _placed(parts, "places", name) for name in ("logprobs", "ref_logprobs", "values") if name in parts[0]
        }
        rows = {name: unpack(column, packed.answer_lengths) for name, column in columns.items()}
        values = rows.get("values", [()] * len(episodes))
        scores = [math.nan] * len(episodes) if conversations is None else _placed(parts, "which", "score").tolist()
        return [
            Scored(score=score, logprobs=logprobs, ref_logprobs=reference, values=value)
            for score, logprobs, reference, value in zip(
                scores, rows["logprobs"], rows["ref_logprobs"], values, strict=True
            )
        ]

    def update(
        self,
        episodes: Sequence[Episode],
        scored: Sequence[Scored],
        advantages: Sequence[Sequence[float]],
        returns: Sequence[Sequence[float]],
        *,
        step: int,
        seed: int,
        pretraining: Sequence[Ids] = (),
    ) -> list[dict[str, float]]:
        """PPO on one step's episodes: `optim.epochs` passes, updates of `optim.batch_size` answers.

        Args:
            advantages, returns: per episode one number per response token (more are left out); without a value model
                returns are not looked at.
            step, seed: which answers meet in a minibatch follows from them.
            pretraining: whole texts, >= 2 tokens each, dealt out over the updates in order.

        Returns:
            One dict per update: means per token of `policy_losses` and entropy, summed losses, gradient norms, learning
            rates; `skipped` and `value_skipped` are 1 where a guard forbade it (`refusals` says why).

        Raises LearnersDiverged when the guards say stop.
        """
        columns: dict[str, Sequence[Any]] = {
            "logprobs": [each.logprobs for each in scored],
            "sampler_logprobs": [episode.logprobs for episode in episodes],
            "advantages": advantages,
        }
        if self._job.loss.kl_loss_coefficient:
            columns["ref_logprobs"] = [each.ref_logprobs for each in scored]
        if self._job.value is not None:
            columns |= {"values": [each.values for each in scored], "returns": returns}
        other = None
        if self._job.loss.pretraining_coefficient and pretraining:
            other = pack([ids[:1] for ids in pretraining], [ids[1:] for ids in pretraining], {})
        found = self._call(
            "update",
            packed=_packed(episodes, columns),
            num_minibatches=math.ceil(len(episodes) / self._job.optim.batch_size),  # some answers may have left
            step=step,
            seed=seed,
            other=other,
        )[0]
        self.refusals = found["refusals"]
        if found["stop"]:
            raise LearnersDiverged(f"{self._job.stage}, step {step}: {found['stop']}")
        stats: list[dict[str, float]] = found["stats"]
        return stats

    def logprobs(self, sequences: Sequence[tuple[Ids, Ids]], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """Nats of each answer token under the policy as it is now; sequences are (prompt ids, answer ids)."""
        packed = pack([prompt for prompt, _ in sequences], [answer for _, answer in sequences], {})
        parts = self._call("logprobs", packed=packed, temperature=temperature)
        return unpack(_placed(parts, "places", "logprobs"), packed.answer_lengths)

    def rewards(self, conversations: Sequence[Ids]) -> list[float]:
        """Scores of whole conversations (>= 1) by the reward model as it is now; ids as in `score`."""
        parts = self._call("rewards", conversations=_scored_at_the_end(conversations))
        return list(_placed(parts, "which", "score").tolist())

    def reward_step(self, conversations: Sequence[Ids], slopes: Sequence[float]) -> dict[str, float]:
        """One update of the reward model, of a job with `reward_optim`: down the loss whose slopes these are.

        Args:
            conversations: >= 1; ids as in `score`.
            slopes: [num_conversations], the derivative of the loss by each one's score, at the scores as they are now.

        Returns:
            grad_norm (before clipping), learning_rate, `skipped`: 1 where the gradient is no number.
        """
        packed = _scored_at_the_end(conversations, {"slopes": [(slope,) for slope in slopes]})
        found: dict[str, float] = self._call("reward_step", conversations=packed)[0]
        return found

    def send_weights(self, info: dict[str, Any]) -> None:
        """Stream the policy's weights, under their Hugging Face names, through `weights.sender.WeightSender(info)`."""
        self._call("send_weights", info=info)

    def save(self, name: str) -> tuple[FileRecord, ...]:
        """A snapshot under <folder>/snapshots/<name>/, replacing what was there; its files, hashed."""
        return tuple(self._call("save", name=name)[0])

    def load(self, name: str | None) -> None:
        """Back to a snapshot, or (None) to the job's models; waits for the workers to be up.

        Raises SnapshotDamaged within TrainingFailed, and ConfigError for a snapshot of another layout.
        """
        self._wait_for_group()
        self._call("load", name=name)

    def export(self, folder: Storage, model_card: str) -> tuple[FileRecord, ...]:
        """Save the policy as a Hugging Face folder, <folder>/model/, with tokenizer and README.md."""
        return tuple(self._call("export", folder=folder, model_card=model_card)[0])

    def _wait_for_group(self) -> None:
        self._group = self._reply(self._hub.ready.remote(), "start", self._job.workers.start_limit_s).group

    def _call(self, command: str, /, **arguments: Any) -> list[Any]:
        """One result per worker, by rank."""
        import ray

        reply = self._hub.call.remote(self._group, command, [ray.put(arguments)])
        return self._reply(reply, command, self._job.workers.call_limit_s).results

    def _reply(self, pending: Any, name: str, limit_s: float) -> Reply:
        import ray

        try:
            reply: Reply = ray.get(pending, timeout=limit_s)
        except ray.exceptions.GetTimeoutError as error:
            raise EngineGaveUp(f"{self._job.stage}: the learners did not finish {name!r} in {limit_s:g} s") from error
        except ray.exceptions.RayActorError as error:
            raise EngineGaveUp(f"{self._job.stage}: the learners' hub was lost; a re-run goes on") from error
        match reply.outcome:
            case "lost":
                raise LearnersLost(f"{self._job.stage}, {name}: {reply.message}")
            case "bad_config":
                raise ConfigError(reply.message)
            case "failed":
                raise TrainingFailed(f"{self._job.stage}: a worker failed\n{reply.message}")
            case "gave_up":
                raise EngineGaveUp(
                    f"{self._job.stage}: workers were lost more than max_failures={self._job.workers.max_failures} "
                    f"times; snapshots stay, a re-run goes on. The last: {reply.message}"
                )
        return reply


def _scored_at_the_end(conversations: Sequence[Ids], columns: dict[str, Sequence[Any]] | None = None) -> Packed:
    return pack(conversations, [PLACEHOLDER] * len(conversations), columns or {})


def _packed(episodes: Sequence[Episode], columns: dict[str, Sequence[Any]]) -> Packed:
    return pack([e.prompt_ids for e in episodes], [e.response_ids for e in episodes], columns)


def _placed(parts: list[dict[str, Any]], places: str, name: str) -> Floats:
    """What the workers found, in order."""
    where = np.concatenate([part[places] for part in parts]).astype(np.int64)
    found = np.empty(len(where), np.float32)
    found[where] = np.concatenate([part[name] for part in parts])
    return found
