"""Rollouts: one or many vLLM engines as Ray actors that sample episodes from the policy as it now is.

`submit` does not wait, so the next episodes are sampled while the learners train on the last ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from cai_ray.algorithms.episodes import Episode, EpisodeRequest
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.engines.cluster import gpus_per_engine, num_gpus
from cai_ray.engines.groups import check_one_node
from cai_ray.engines.placement import EnginesConfig, spread, staying_options
from cai_ray.engines.rollouts.backend import Transport
from cai_ray.engines.rollouts.worker import EngineUse, RolloutActor, Sequences, WeightsLost
from cai_ray.engines.weights.store import Weights, WeightStore
from cai_ray.errors import ConfigError, EngineGaveUp

logger = logging.getLogger(__name__)
CLOSING_LIMIT_S = 20.0


class RolloutConfig(EnginesConfig):
    """How rollouts spread over the cluster, and how weights get there. Changes speed and memory, not results."""

    transport: Literal["auto", "host", "nccl"] = Field(
        "auto", description='How weights travel: "host" memory, or "nccl" between GPUs; auto: nccl unless they share.'
    )
    bucket_bytes: int = Field(64 * 2**20, ge=2**10, description="Weights are gathered and sent in runs of this size.")


class Pending:
    """Episodes on their way."""

    def __init__(self, engines: RolloutEngines, requests: Sequence[EpisodeRequest]) -> None:
        self._engines, self._requests = engines, tuple(requests)
        self._order = engines.next_order()
        self._shares = spread([request.prompt_id for request in self._requests], engines.config.num_engines)
        self._references = [self._send(number) for number in range(len(self._shares))]
        self._episodes: list[Episode] | None = None

    def _send(self, number: int) -> Any:
        share = [self._requests[i] for i in self._shares[number]]
        return self._engines.ask(number, "sample", self._order, share) if share else None

    def result(self) -> list[Episode]:
        """The episodes in the order of the requests; waits for them.

        Raises EngineGaveUp when an engine died more than `max_restarts` times or a request breaks every engine,
        ConfigError when a prompt leaves no room for an answer.
        """
        if self._episodes is None:
            episodes: dict[int, Episode] = {}
            for number, share in enumerate(self._shares):
                episodes.update(zip(share, self._wait(number), strict=True))
            self._episodes = [episodes[i] for i in range(len(self._requests))]
        return self._episodes

    def cancel(self) -> None:
        """The episodes are not wanted any more: engines stop sampling them."""
        for number, reference in enumerate(self._references):
            if reference is not None:
                self._engines.ask(number, "cancel", self._order)

    def _wait(self, number: int) -> list[Episode]:
        while (reference := self._references[number]) is not None:
            try:
                return self._engines.wait(number, reference)
            except WeightsLost:
                self._engines.send_again()
                self._references[number] = self._send(number)
        return []


class RolloutEngines:
    """One or many vLLM engines as Ray actors, all with the same weights. Needs a connected Ray.

    A lost engine is restarted, by its actor or (when that is lost) by Ray, fetches the newest weights and samples
    again what was on its way; the other engines do not notice.
    """

    def __init__(self, model: ModelConfig, config: RolloutConfig, sampling: SamplingConfig) -> None:
        engine = model.engine.model_copy(update={"max_restarts": config.max_restarts})
        self.model = model.model_copy(update={"engine": engine})
        self.config, self.sampling = config, sampling
        self.version = 0  # of the newest weights; 0: the model folder's
        self.max_model_len = 0  # tokens, known after `start`
        self.transport: Transport = "host"
        self.resend: Callable[[], object] | None = None  # set by WeightSync: the learners send once more
        self._actors: list[Any] = []
        self._store: Any = None
        self._names: dict[str, Any] = {}
        self._is_asleep = False
        self._num_orders = 0

    def start(self) -> None:
        """Returns when all engines can sample; `launch` comes first unless it was called. Raises EngineGaveUp."""
        if not self._actors:
            self.launch()
        self.max_model_len = min(self.ask_all("ready"))

    def launch(self) -> None:
        """Let all engines start, and do not wait: they take long, and so may learners meanwhile. Raises ConfigError."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        check_one_node(self.model.engine, "PPO's engines are")
        gpus = gpus_per_engine(self.model.engine)
        self.transport = choose_transport(self.config, has_gpus=gpus > 0)
        sleeps = self.config.sleep and gpus > 0
        beside_me = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        name = f"cai_ray-{uuid4().hex[:12]}"
        self._names = {"store": f"{name}-weights", "engines": [f"{name}-{i}" for i in range(self.config.num_engines)]}
        self._store = (
            ray.remote(WeightStore)
            .options(name=self._names["store"], num_cpus=0, scheduling_strategy=beside_me)
            .remote()
        )
        for number, engine_name in enumerate(self._names["engines"]):
            actor = ray.remote(RolloutActor).options(
                name=engine_name, **staying_options(self.config, number, gpus, sleeps)
            )
            self._actors.append(
                actor.remote(self.model, self.sampling, self.transport, sleeps, self._names["store"], number)
            )
        for number in range(len(self._actors)):
            self.ask(number, "ready")

    def close(self) -> None:
        """End all engines. May be called twice, and before `start`."""
        import ray

        actors, self._actors = self._actors, []
        if actors:
            ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=CLOSING_LIMIT_S)
        for actor in [*actors, *([] if self._store is None else [self._store])]:
            ray.kill(actor)
        self._store = None

    def submit(self, requests: Sequence[EpisodeRequest]) -> Pending:
        """Sample one episode per request; returns at once."""
        return Pending(self, requests)

    def logprobs(self, sequences: Sequences) -> list[list[tuple[float, ...]]]:
        """Per engine and sequence: log-probabilities of the response tokens, nats, at temperature 1.

        A sequence is (prompt ids, response ids), both non-empty and together shorter than `max_model_len`.
        """
        return self.ask_all("logprobs", list(sequences))

    def use(self) -> list[EngineUse]:
        """Busy time and tokens of each engine so far: for idle shares and speeds."""
        return self.ask_all("use")

    def num_starts(self) -> list[int]:
        """Starts of each engine so far; 1 each when none was lost."""
        import ray

        starts = ray.get(self._store.num_starts.remote())
        return [starts.get(i, 0) for i in range(len(self._actors))]

    def sleep(self) -> None:
        """Leave the GPUs to the learners, after what is in flight; a no-op unless `config.sleep` and there are GPUs."""
        if self._sleeps and not self._is_asleep:
            self.ask_all("sleep")
            self._is_asleep = True

    def wake(self) -> None:
        """Take the GPUs back. Weights are those of before; a sync may follow."""
        if self._is_asleep:
            self.ask_all("wake")
            self._is_asleep = False

    @property
    def _sleeps(self) -> bool:
        return self.config.sleep and num_gpus() > 0

    # What sync.py needs

    def transfer_info(self, version: int) -> dict[str, Any]:
        """Where the learners' WeightSender sends: plain strings and numbers."""
        import ray

        return {
            "transport": self.transport,
            "namespace": ray.get_runtime_context().namespace,
            "store": self._names["store"],
            "engines": self._names["engines"],
            "ranks_per_engine": self.model.engine.tensor_parallel_size,
            "group": f"{self._names['store']} {self.num_starts()}",  # another one as soon as an engine is new
            "version": version,
            "bucket_bytes": self.config.bucket_bytes,
        }

    def newest(self) -> Weights:
        """What the store holds."""
        import ray

        return ray.get(self._store.newest.remote())

    def ask_all(self, method: str, *arguments: Any) -> list[Any]:
        """Every engine's answer."""
        references = [self.ask(i, method, *arguments) for i in range(len(self._actors))]
        return [self.wait(number, reference) for number, reference in enumerate(references)]

    def next_order(self) -> int:
        """A number of its own for each `submit`."""
        self._num_orders += 1
        return self._num_orders

    def ask(self, number: int, method: str, *arguments: Any) -> Any:
        """An ObjectRef of one engine's answer."""
        if not self._actors:
            raise RuntimeError("RolloutEngines.start() comes first")
        return getattr(self._actors[number], method).remote(*arguments)

    def wait(self, number: int, reference: Any) -> Any:
        """An engine's answer. Raises what the engine raised, and EngineGaveUp when it is lost for good."""
        import ray
        from ray.exceptions import RayActorError

        try:
            return ray.get(reference)
        except RayActorError as error:
            raise EngineGaveUp(
                f"rollout engine {number} was lost more than max_restarts={self.config.max_restarts} times: {error}"
            ) from error

    def send_again(self) -> None:
        """An engine that started anew has no newest weights: the learners send them to all."""
        if self.resend is None:
            raise EngineGaveUp("a rollout engine was lost before learners were connected")
        logger.warning("a rollout engine started anew: the learners send their weights again")
        self.resend()


def choose_transport(config: RolloutConfig, has_gpus: bool) -> Transport:
    """Raises ConfigError when NCCL cannot work: it needs GPUs, and two ranks cannot share one."""
    if config.transport == "auto":
        return "nccl" if has_gpus and not config.sleep else "host"
    if config.transport == "nccl" and not has_gpus:
        raise ConfigError('rollouts.transport is "nccl" and this cluster has no GPU; set it to "auto"')
    if config.transport == "nccl" and config.sleep:
        raise ConfigError('rollouts.transport is "nccl", which cannot share GPUs (sleep); set it to "auto"')
    return config.transport
