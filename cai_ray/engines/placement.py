"""Which nodes may hold an engine or a training worker: labels, in order of preference, as Ray takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cai_ray.config import Placement

_SELECTOR = re.compile(r"(?P<no>!?)(?:in\((?P<some>[^()]*)\)|(?P<one>.*))")


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
