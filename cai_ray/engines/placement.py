"""Which nodes may hold an engine or a training worker: labels, in order of preference, as Ray takes them.

And how engines that stay up beside learners are spread, shared and asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from cai_ray.config import Placement

_SELECTOR = re.compile(r"(?P<no>!?)(?:in\((?P<some>[^()]*)\)|(?P<one>.*))")


class EnginesConfig(Placement):
    """Engines that stay up for a whole stage. Changes speed and memory, not results."""

    num_engines: int = Field(1, ge=1, description="vLLM engines; each takes tensor_parallel_size GPUs, if any.")
    cpus_per_engine: float = Field(1.0, ge=0, description="Logical CPUs reserved per engine.")
    sleep: bool = Field(
        False, description="Engines sleep on the learners' GPUs while those train (one node); false: GPUs of their own."
    )
    max_restarts: int = Field(4, ge=0, description="Restarts per engine before the stage gives up.")


def staying_options(config: EnginesConfig, number: int, gpus: float, sleeps: bool) -> dict[str, Any]:
    """Options of engine `number`'s actor, which takes `gpus`; one that `sleeps` is on the learners' node and GPUs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    beside_me = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return {
        "num_cpus": config.cpus_per_engine,
        "num_gpus": 0 if sleeps else gpus,
        "runtime_env": _shared_devices(number, int(gpus)) if sleeps else None,
        # A call is repeated for as long as its actor is restarted: both end together.
        "max_restarts": config.max_restarts,
        "max_task_retries": -1,
        "scheduling_strategy": beside_me if sleeps else "SPREAD",
        **({} if sleeps else actor_options(config)),
    }


def _shared_devices(number: int, num_gpus: int) -> dict[str, Any]:
    """Engine `number` on the same GPUs as that learner; Ray, which sees them taken, is not asked."""
    first = number * num_gpus
    return {"env_vars": {"CUDA_VISIBLE_DEVICES": ",".join(str(first + i) for i in range(num_gpus))}}


def spread(prompts: Sequence[str], num_engines: int) -> list[list[int]]:
    """Positions for each engine: evenly, and those of one prompt (its id) together, for its cached prefix."""
    by_prompt: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt, []).append(position)
    shares: list[list[int]] = [[] for _ in range(num_engines)]
    for positions in by_prompt.values():
        min(shares, key=len).extend(positions)
    return shares


def actor_options(placement: Placement) -> dict[str, Any]:
    """Options of a Ray actor. Ray tries the fallbacks in order each time that it places one."""
    if not placement.labels:
        return {}
    fallback = [{"label_selector": dict(selector)} for selector in placement.fallback]
    return {"label_selector": dict(placement.labels)} | ({"fallback_strategy": fallback} if fallback else {})


def first_with_room(placement: Placement, wanted: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The selector for workers that start together, to whom Ray gives no fallback.

    The first whose nodes, as they are now, hold them all (other work on them aside); `labels` where none does, and a
    node is waited for. `wanted`: what each worker reserves, by Ray's names of resources.
    """
    import ray

    nodes = [(node["Labels"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    for selector in (placement.labels, *placement.fallback):
        if _holds([resources for labels, resources in nodes if matches(selector, labels)], wanted):
            return dict(selector)
    return dict(placement.labels)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is selected; one without a label has no value that is excluded."""
    return all(_takes(value, labels.get(name)) for name, value in selector.items())


def _takes(value: str, label: str | None) -> bool:
    match = _SELECTOR.fullmatch(value)
    assert match is not None  # any text is one value
    values = [match["one"]] if match["some"] is None else [one.strip() for one in match["some"].split(",")]
    return (label in values) != bool(match["no"])


def _holds(nodes: Sequence[Mapping[str, float]], wanted: Sequence[Mapping[str, float]]) -> bool:
    """Whether all find room, each on one node: first fit, the largest first."""
    free = [dict(node) for node in nodes]
    for one in sorted(wanted, key=lambda one: sum(one.values()), reverse=True):
        for node in free:
            if all(node.get(name, 0.0) >= amount for name, amount in one.items()):
                for name, amount in one.items():
                    node[name] -= amount
                break
        else:
            return False
    return True
