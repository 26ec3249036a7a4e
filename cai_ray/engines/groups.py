"""Engines that are wider than a node: each in a placement group of its own, for vLLM's Ray executor.

A bundle is one GPU, which is what vLLM takes a group in; it sorts them by node, so that the ranks of one part of the
layers (`tensor_parallel_size`) lie on one node wherever each node of the group has a multiple of them.

Where they lie: tests/cluster/test_scheduling.py. With real GPUs, none of it has been run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cai_ray.config import EngineConfig, Placement
from cai_ray.engines.placement import first_with_room
from cai_ray.errors import ConfigError


class Groups:
    """Of the engines of one pool. Needs a connected Ray."""

    def __init__(self, engine: EngineConfig, placement: Placement, cpus_per_engine: float) -> None:
        self._placement = placement
        self._bundles: list[dict[str, float]] = [{"GPU": 1.0} for _ in range(engine.num_gpus)]
        if cpus_per_engine:
            self._bundles[0]["CPU"] = cpus_per_engine  # the engine's own process; its ranks take none
        self._made: list[Any] = []

    def options(self) -> dict[str, Any]:
        """What Ray is told of one more engine, whose group is made and waits for its GPUs."""
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        labels = first_with_room(self._placement, self._bundles)
        group = placement_group(
            self._bundles, strategy="PACK", bundle_label_selector=[labels for _ in self._bundles] if labels else None
        )
        self._made.append(group)
        strategy = PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        return {"scheduling_strategy": strategy}

    def give_back(self) -> None:
        from ray.util import remove_placement_group

        while self._made:
            remove_placement_group(self._made.pop())


@contextmanager
def given_back(groups: Sequence[Groups | None]) -> Iterator[None]:
    """Their GPUs are free for the next stage after this block."""
    try:
        yield
    finally:
        for one in groups:
            if one is not None:
                one.give_back()


def check_packed(tensor_parallel_size: int) -> None:
    """Of the group that this process runs in, if any. Raises ConfigError where ranks of one part lie on two nodes.

    They talk within every layer, and a network between them makes an engine of no use.
    """
    import ray
    from ray.util import get_current_placement_group, placement_group_table

    if not ray.is_initialized() or (group := get_current_placement_group()) is None:
        return
    on_node = Counter(placement_group_table(group)["bundles_to_node_id"].values())
    if any(num % tensor_parallel_size for num in on_node.values()):
        raise ConfigError(
            f"the GPUs of an engine came to lie {' + '.join(map(str, sorted(on_node.values())))} on "
            f"{len(on_node)} nodes, which is no multiple of tensor_parallel_size={tensor_parallel_size} on each; "
            "set it to a divisor of a node's GPUs, or choose whole nodes by scaling.labels"
        )


def check_one_node(engine: EngineConfig, who: str) -> None:
    """Raises ConfigError."""
    if engine.pipeline_parallel_size > 1:
        raise ConfigError(
            f"engine.pipeline_parallel_size={engine.pipeline_parallel_size}: {who} within a node; set it to 1 and "
            "tensor_parallel_size to the GPUs that the model needs"
        )
