"""Weights over NCCL, by vLLM's own trainer-side engine: the learners' first worker broadcasts, every engine receives.

GPUs only, and none that learners and rollout engines share: NCCL refuses two ranks on one device.

Tested in tests/gpu/test_weight_sync_gpu.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class EngineClient:
    """vLLM's VLLMWeightSyncClient for independent engines: each has its own ranks in the one process group.

    Start and finish do nothing here: they bracket a whole sync, and vLLM's `send_weights` is called once per bucket.
    """

    def __init__(self, actors: Sequence[Any], ranks_per_engine: int) -> None:
        self._actors, self._ranks_per_engine = actors, ranks_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        first = init_info["rank_offset"]
        self._call_each(
            "init_weight_transfer_engine",
            [
                {"init_info": {**init_info, "rank_offset": first + number * self._ranks_per_engine}}
                for number in range(len(self._actors))
            ],
        )

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, update_info: Any) -> None:
        self._call_each("update_weights", [{"update_info": update_info}] * len(self._actors))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        pass

    def begin_sync(self) -> None:
        self._call_each("start_weight_update", [{}] * len(self._actors))

    def end_sync(self) -> None:
        self._call_each("finish_weight_update", [{}] * len(self._actors))

    def leave(self) -> None:
        self._call_each("shutdown_weight_transfer_engine", [{}] * len(self._actors))

    def _call_each(self, method: str, arguments: Sequence[dict[str, Any]]) -> None:
        import ray

        ray.get([a.transfer.remote(method, kwargs) for a, kwargs in zip(self._actors, arguments, strict=True)])


@cache
def _bucket_source() -> type:
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class BucketSource(WeightSource):  # type: ignore[misc]
        """The tensors of the bucket at hand."""

        tensors: Sequence[tuple[str, Tensor]] = ()

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(self.tensors)

    return BucketSource


@dataclass(frozen=True)
class Group:
    """A process group of this worker and every process of every engine."""

    key: str
    trainer: Any  # vLLM's NCCLTrainerWeightTransferEngine
    client: EngineClient
    source: Any


_groups: list[Group] = []  # at most one: of this process, kept from sync to sync, because NCCL takes seconds to meet


class NcclLink:
    """One sync over NCCL."""

    def __init__(self, info: dict[str, Any]) -> None:
        import ray

        self._store = ray.get_actor(info["store"], namespace=info["namespace"])
        self._group = _group(info)
        ray.get(self._store.begin.remote(info["version"]))
        self._group.client.begin_sync()

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        import torch

        device = torch.device("cuda", torch.cuda.current_device())
        self._group.source.tensors = [(name, tensor.detach().to(device)) for name, tensor in tensors]
        self._group.trainer.send_weights()
        self._group.source.tensors = ()

    def finish(self) -> None:
        import ray

        self._group.client.end_sync()
        ray.get(self._store.commit.remote())


def _group(info: dict[str, Any]) -> Group:
    """The group of these engines; a new one when any of them started anew."""
    import ray
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    if _groups and _groups[0].key == info["group"]:
        return _groups[0]
    actors = [ray.get_actor(name, namespace=info["namespace"]) for name in info["engines"]]
    client = EngineClient(actors, info["ranks_per_engine"])
    if _groups:
        _groups.pop().trainer.shutdown()
        client.leave()
    source = _bucket_source()()
    trainer = WeightTransferTrainerFactory.trainer_init(
        NCCLTrainerInitInfo(
            master_address=ray.util.get_node_ip_address(),
            master_port=_free_port(),
            world_size=1 + len(actors) * info["ranks_per_engine"],
            packed_buffer_size_bytes=info["bucket_bytes"],
            rank=0,
        ),
        client=client,
        source=source,
    )
    _groups.append(Group(info["group"], trainer, client, source))
    return _groups[0]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
