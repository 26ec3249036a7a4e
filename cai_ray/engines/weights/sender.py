"""Who has weights to send, and the way they go in buckets.

Tested in tests/cluster/test_weight_sync.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cai_ray.engines.weights.buckets import pack

if TYPE_CHECKING:
    from torch import Tensor

BUCKETS_IN_FLIGHT = 2


class SendsWeights(Protocol):
    """What a sync needs of the learners."""

    def send_weights(self, info: dict[str, Any]) -> None:
        """Build `WeightSender(info)` in the first worker and stream all weights through it."""


class WeightSender:
    """The learners' end of one sync; lives in the process of the first worker, which is a Ray worker.

    `info` comes from RolloutEngines.transfer_info. `send` takes tensors by their Hugging Face names, any device, about
    info["bucket_bytes"] at a time; it copies them. `finish` makes the sync count: without it nothing has happened.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self._link: HostLink | Any
        if info["transport"] == "nccl":
            from cai_ray.engines.weights.nccl import NcclLink

            self._link = NcclLink(info)
        else:
            self._link = HostLink(info)

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        if tensors:
            self._link.send(tensors)

    def finish(self) -> None:
        self._link.finish()


class HostLink:
    """Through host memory into the WeightStore, from where the engines fetch."""

    def __init__(self, info: dict[str, Any]) -> None:
        import ray

        self._store = ray.get_actor(info["store"], namespace=info["namespace"])
        self._under_way: list[Any] = [self._store.begin.remote(info["version"])]

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        import ray

        layout, data = pack(tensors)
        while len(self._under_way) >= BUCKETS_IN_FLIGHT:  # bounds the memory of what is on its way
            ray.get(self._under_way.pop(0))
        self._under_way.append(self._store.add.remote(layout, data))

    def finish(self) -> None:
        import ray

        ray.get([*self._under_way, self._store.commit.remote()])
