"""One training worker's place among all, and what the workers do together.

Tested in tests/cluster/test_training.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cai_ray.engines.training.arguments import Device

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Ranks count from 0. Every method is called by all workers, or by none."""

    rank: int
    num_workers: int
    local_rank: int  # on this node
    num_local: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, decide: Callable[[], T]) -> T:
        """What the first worker decides."""
        if self.num_workers == 1:
            return decide()
        import torch.distributed as dist

        box: list[Any] = [decide() if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until every worker is here."""
        if self.num_workers > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, mine: list[T]) -> list[T]:
        """The lists of all workers, one after the other by rank."""
        if self.num_workers == 1:
            return mine
        import torch.distributed as dist

        lists: list[Any] = [None] * self.num_workers
        dist.all_gather_object(lists, mine)
        return [item for each in lists for item in each]


def place_of_this_worker() -> Place:
    """Inside a Ray Train worker."""
    import ray.train

    context = ray.train.get_context()
    return Place(
        context.get_world_rank(), context.get_world_size(), context.get_local_rank(), context.get_local_world_size()
    )


def device_of_this_worker() -> Device:
    """What it computes on, and whether that has bfloat16."""
    import torch

    is_gpu = torch.cuda.is_available()
    return Device(is_gpu, has_bf16=is_gpu and torch.cuda.is_bf16_supported())


def is_lost_peer(error: Exception) -> bool:
    """Another worker is gone, which a new start mends."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))
    )
