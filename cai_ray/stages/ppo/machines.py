"""What the loop drives: learners, rollout engines, and the weights' way from the ones to the others.

Tested whole in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from cai_ray.algorithms.episodes import Episode, EpisodeRequest, Scored
from cai_ray.config import ModelConfig, ScalingConfig
from cai_ray.engines.learners.job import LearnersJob
from cai_ray.engines.models.agreement import HALF_PRECISION_TOLERANCE, HALF_PRECISION_WORST, TOLERANCE, is_exact
from cai_ray.engines.training.proof import judged
from cai_ray.stages.context import Context
from cai_ray.stages.ppo.config import STAGE, Config
from cai_ray.stages.ppo.models import Models
from cai_ray.stages.ppo.rewards.judges import judges_of

if TYPE_CHECKING:
    from cai_ray.engines.learners.learners import Learners
    from cai_ray.engines.rollouts.engines import Pending, RolloutEngines
    from cai_ray.engines.rollouts.standing import StandingEngines
    from cai_ray.engines.rollouts.sync import WeightSync

LIGHT_TASKS_CPUS = 2.0  # logical, that Ray Data's readers and writers take beside an engine
Leaving = Literal["nobody", "engines", "all"]


@dataclass
class Machines:
    """Started and stopped together."""

    learners: Learners
    engines: RolloutEngines
    sync: WeightSync
    config: Config
    tolerance: float  # of the proof before the first update, nats per token on average
    leaving: Callable[[ModelConfig, ScalingConfig], Leaving]  # who has to go so that engines of that model can start
    worst: float = TOLERANCE  # of the proof after a sync: nats of the token that is furthest apart
    judges: StandingEngines | None = None  # that the reward asks; None: learners know it
    _busy_s: float = 0.0
    _num_starts: int = 0
    _asked: Pending | None = None  # what was submitted last

    def start(self, resume: str | None, version: int) -> None:
        """Bring all up; learners go on from the snapshot `resume`, and the engines get its weights."""
        judges = self.judges
        if self.config.rollouts.sleep:
            self.engines.start()  # alone: an engine measures what is free on the GPU that it is to share
            self.engines.sleep()
        else:
            self.engines.launch()
        if judges is not None and judges.sleeps:
            judges.start()
            judges.sleep()
        elif judges is not None:
            judges.launch()
        self.learners.start(resume)
        self.engines.start()
        if judges is not None and not judges.sleeps:
            judges.start()
        self.newly_started()
        self.push(version)

    def rewind(self, resume: str | None, version: int) -> None:
        """Back to a snapshot after a learner was lost; its group is started again by itself."""
        if self._asked is not None:
            self._asked.cancel()
        self.learners.load(resume)
        self.engines.start()  # a learner may have been lost before they were up
        self.push(version)

    @contextmanager
    def room_for(self, model: ModelConfig, scaling: ScalingConfig, resume: str, version: int) -> Iterator[None]:
        """Other engines can start meanwhile. Who stands in their way is closed, and started again afterwards.

        Learners that had to go come back from the snapshot `resume`. After an error nobody comes back.
        """
        leaving = self.leaving(model, scaling)
        if leaving == "nobody":
            yield
            return
        self.engines.wake()  # a sleeper is not closed
        self.engines.close()
        self.engines.version = 0  # those that come next begin with the model folder's weights
        if leaving == "all":
            self.learners.close()
        yield
        if leaving == "all":
            self.start(resume, version)
        else:
            self.engines.start()
            self.newly_started()
            self.push(version)

    def close(self) -> None:
        with ExitStack() as closing:
            closing.callback(self.learners.close)
            closing.callback(self.engines.close)
            if self.judges is not None:
                closing.callback(self.judges.close)

    def push(self, version: int) -> None:
        """The learners' weights to every engine."""
        self.engines.wake()
        if version != self.engines.version:
            self.sync.push(version)

    def prove(self, episodes: Sequence[Episode]) -> None:
        """That the weights arrived, on some of the answers. Raises WeightSyncFailed."""
        proof = [(episode.prompt_ids, episode.response_ids) for episode in episodes[: self.config.proof.sequences]]
        if proof:
            self.sync.prove(proof, self.learners.logprobs(proof), self.worst)

    def prove_start(self, episodes: Sequence[Episode], scored: Sequence[Scored]) -> None:
        """That the learners compute what the engines sampled by, before anything is learned. Raises ConfigError."""
        num = self.config.proof.sequences
        if num:
            judged(
                "ppo",
                [one.logprobs for one in scored[:num]],
                [one.logprobs for one in episodes[:num]],
                self.tolerance,
                learner="ppo's policy as its learners load it",
                other="the engine that sampled them",
            )

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
        reward_optim=config.refresh.optim if config.refresh else None,
    )


def leaving_for(
    config: Config,
    policy: ModelConfig,
    has_gpus: bool,
    free: Mapping[str, float],
    model: ModelConfig,
    scaling: ScalingConfig,
) -> Leaving:
    """Who has to leave before `scaling.min_engines` engines of `model` find room.

    Engines that sleep on the learners' GPUs hold none of their own, so there the learners have to go too.

    Args:
        free: what the cluster has left now, by Ray's names of resources.
    """
    of_engines = 0 if config.rollouts.sleep else config.rollouts.num_engines * policy.engine.tensor_parallel_size
    gpus = 0 if model.endpoint else model.engine.num_gpus
    wanted = {"CPU": scaling.min_engines * scaling.cpus_per_engine + LIGHT_TASKS_CPUS}
    held = {"CPU": config.rollouts.num_engines * config.rollouts.cpus_per_engine}
    if has_gpus:
        wanted["GPU"] = float(scaling.min_engines * gpus)
        held["GPU"] = float(of_engines)
    if all(amount <= free.get(name, 0.0) for name, amount in wanted.items()):
        return "nobody"
    if all(amount <= free.get(name, 0.0) + held[name] for name, amount in wanted.items()):
        return "engines"
    return "all"


def tolerances(config: Config, policy: ModelConfig, has_gpus: bool) -> tuple[float, float]:
    """How far engines and learners may be apart: nats per token on average, and nats of the worst token.

    Learners on a CPU compute in float32 whatever the engines do; on GPUs neither side is exact.
    """
    exact = is_exact(policy, has_gpus)
    of_mean, of_worst = (TOLERANCE, TOLERANCE) if exact else (HALF_PRECISION_TOLERANCE, HALF_PRECISION_WORST)
    return config.proof.tolerance or of_mean, config.proof.tolerance or of_worst


def build_machines(config: Config, context: Context, models: Models) -> Machines:
    """Nothing is started yet; Ray is connected."""
    import ray

    from cai_ray.engines.cluster import num_gpus
    from cai_ray.engines.learners.learners import Learners
    from cai_ray.engines.rollouts.engines import RolloutEngines
    from cai_ray.engines.rollouts.sync import WeightSync

    learners = Learners(learners_job(config, context, models), can_grow=context.cluster.address is not None)
    engines = RolloutEngines(models.policy, config.rollouts, config.sampling)
    has_gpus = num_gpus() > 0
    tolerance, worst = tolerances(config, models.policy, has_gpus)

    def leaving(model: ModelConfig, scaling: ScalingConfig) -> Leaving:
        return leaving_for(config, models.policy, has_gpus, ray.available_resources(), model, scaling)

    judges = judges_of(config.constitution, context) if config.constitution else None
    return Machines(learners, engines, WeightSync(learners, engines), config, tolerance, leaving, worst, judges)
