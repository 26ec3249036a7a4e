"""vLLM as a rollout engine: a VllmBackend whose weights follow a WeightStore, over vLLM's own weight-transfer API.

Tested in tests/engines/rollouts/test_engines.py.
"""

from __future__ import annotations

from typing import Any, Literal

from cai_ray.config import ModelConfig
from cai_ray.engines.backends.vllm_backend import VllmBackend
from cai_ray.engines.backends.vllm_engine import SLEEPS
from cai_ray.engines.weights.host_engine import BACKEND
from cai_ray.engines.weights.store import NONE_YET, Weights

Transport = Literal["host", "nccl"]


class RolloutBackend(VllmBackend):
    """A VllmBackend whose weights follow a WeightStore."""

    def __init__(self, model: ModelConfig, transport: Transport, store: str, number: int) -> None:
        import ray

        super().__init__(model)
        self.version = 0
        self.is_stale = False  # NCCL only: the newest weights are elsewhere
        self._serial = NONE_YET.serial
        self._transport, self._number = transport, number
        self._store: Any = ray.get_actor(store)  # by name: a handle would have to outlive every restart

    async def start(self) -> None:
        await super().start()
        self.version, self._serial, self.is_stale = 0, NONE_YET.serial, False
        await self._store.note_start.remote(self._number)
        await self.load_newest()

    async def load_newest(self) -> None:
        """Fetch and load the store's weights unless they are here already. Raises EngineDied."""
        newest: Weights = await self._store.newest.remote()
        if newest.serial == self._serial:
            return
        if self._transport == "nccl":
            self.is_stale = True
            return
        await self.call("start_weight_update")
        for layout, reference in newest.buckets:
            data = await reference
            await self.call("update_weights", update_info={**layout, "data": memoryview(data)})
        await self.call("finish_weight_update")
        await self.adopt(newest)

    async def adopt(self, weights: Weights) -> None:
        """The engine holds these weights now: what it remembers of older ones goes."""
        if not await self._asked(self._engine.reset_prefix_cache()):
            raise RuntimeError("the prefix cache was not reset: it would mix the weights of two versions")
        self.version, self._serial, self.is_stale = weights.version, weights.serial, False

    async def adopt_newest(self) -> None:
        """After a transfer that went past the store."""
        await self.adopt(await self._store.newest.remote())

    async def call(self, method: str, **arguments: Any) -> None:
        """A method of vLLM's worker, on every process of this engine. Raises EngineDied."""
        await self._asked(self._engine.collective_rpc(method, kwargs=arguments))

    async def check(self) -> None:
        """Raises EngineDied when it is."""
        await self._asked(self._engine.check_health())


def with_weight_transfer(model: ModelConfig, transport: Transport, sleeps: bool) -> ModelConfig:
    """The model with vLLM's arguments for taking weights and for log-probabilities as they were sampled with."""
    ours: dict[str, Any] = {
        "weight_transfer_config": {"backend": BACKEND if transport == "host" else "nccl"},
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature; vLLM's default is before it
    }
    if sleeps:
        ours |= SLEEPS
    engine = model.engine.model_copy(update={"extra": ours | model.engine.extra})
    return model.model_copy(update={"engine": engine})
