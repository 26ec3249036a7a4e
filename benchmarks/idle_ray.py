"""A Ray that idles on this machine: what its processes alone take from whatever computes on the same cores.

Each worker of Ray wakes a hundred times a second to look for signals (core_worker's CheckSignal, no setting of it). On
a machine whose every core is busy that interrupts one of the threads that compute, and the others wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cai_ray.engines.cluster import ClusterConfig, connected

NUM_ACTORS = 5  # beside an engine of the revise stage there are five workers of Ray, beside a training six


class Idle:
    """An actor that does nothing."""

    def ready(self) -> None:
        return None


@contextmanager
def idle_ray() -> Iterator[None]:
    import ray

    with connected(ClusterConfig(object_store_gib=0.5)):
        actors = [ray.remote(num_cpus=0)(Idle).remote() for _ in range(NUM_ACTORS)]  # there until the end
        ray.get([actor.ready.remote() for actor in actors])
        yield
