"""What the loop drives: learners, rollout engines, and the weights' way from the ones to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from cai_ray.engines.episodes import Episode, EpisodeRequest
from cai_ray.engines.policy_job import LearnersJob
from cai_ray.stages.context import Context
from cai_ray.stages.ppo_config import STAGE, Config
from cai_ray.stages.ppo_models import Models

if TYPE_CHECKING:
    from cai_ray.engines.policy import Learners
    from cai_ray.engines.rollouts import Pending, RolloutEngines
    from cai_ray.engines.weight_sync import WeightSync

HALF_PRECISION_TOLERANCE = 0.1  # nats per token: bfloat16 engines round otherwise than the learners


@dataclass
class Machines:
    """Started and stopped together."""

    learners: Learners
    engines: RolloutEngines
    sync: WeightSync
    config: Config
    tolerance: float  # of proofs, nats per token
    _busy_s: float = 0.0
    _num_starts: int = 0
    _asked: Pending | None = None  # what was submitted last

    def start(self, resume: str | None, version: int) -> None:
        """Bring all up; learners go on from the snapshot `resume`, and the engines get its weights."""
        if self.config.rollouts.sleep:
            self.engines.start()  # alone: an engine measures what is free on the GPU that it is to share
            self.engines.sleep()
        else:
            self.engines.launch()
        self.learners.start(resume)
        self.engines.start()
        self.newly_started()
        self.push(version)

    def rewind(self, resume: str | None, version: int) -> None:
        """Back to a snapshot after a learner was lost; its group is started again by itself."""
        if self._asked is not None:
            self._asked.cancel()
        self.learners.load(resume)
        self.engines.start()  # a learner may have been lost before they were up
        self.push(version)

    def close(self) -> None:
        try:
            self.engines.close()
        finally:
            self.learners.close()

    def push(self, version: int, episodes: Sequence[Episode] = ()) -> None:
        """The learners' weights to every engine, proven on some of the answers. Raises WeightSyncFailed."""
        self.engines.wake()
        if version != self.engines.version:
            self.sync.push(version)
        proof = [(episode.prompt_ids, episode.response_ids) for episode in episodes[: self.config.proof.sequences]]
        if proof:
            self.sync.prove(proof, self.learners.logprobs(proof), self.tolerance)

    def submit(self, requests: Sequence[EpisodeRequest]) -> Pending:
        """Have these sampled; does not wait."""
        self._asked = self.engines.submit(requests)
        return self._asked

    def newly_busy_s(self) -> float:
        """Seconds that an engine has sampled since this was last asked, on average; 0 where one started anew."""
        before, self._busy_s = self._busy_s, fmean(use.busy_s for use in self.engines.use())
        return max(self._busy_s - before, 0.0)

    def newly_started(self) -> int:
        """Engines that were started since this was last asked; at first all of them are."""
        before, self._num_starts = self._num_starts, sum(self.engines.num_starts())
        return self._num_starts - before


def learners_job(config: Config, context: Context, models: Models) -> LearnersJob:
    """What the learners are told."""
    return LearnersJob(
        stage=STAGE,
        folder=context.folder(STAGE),
        seed=context.seed,
        policy=models.policy,
        reward=models.scored,
        value=models.value,
        optim=config.optim,
        value_optim=config.value_optim,
        total_updates=config.num_updates,
        workers=config.workers,
        lora=config.lora,
        loss=config.loss,
        value_loss=config.value_loss,
        guards=config.guards,
        temperature=config.sampling.temperature,
    )


def build_machines(config: Config, context: Context, models: Models) -> Machines:
    """Nothing is started yet; Ray is connected."""
    import ray

    from cai_ray.engines.policy import Learners
    from cai_ray.engines.rollouts import RolloutEngines
    from cai_ray.engines.weight_sync import TOLERANCE, WeightSync

    learners = Learners(learners_job(config, context, models), can_grow=context.cluster.address is not None)
    engines = RolloutEngines(models.policy, config.rollouts, config.sampling)
    exact = not ray.cluster_resources().get("GPU", 0)
    tolerance = config.proof.tolerance or (TOLERANCE if exact else HALF_PRECISION_TOLERANCE)
    return Machines(learners, engines, WeightSync(learners, engines), config, tolerance)
