"""The newest weights of the policy, kept by an actor of their own beside the driver.

Learners put them in, rollout engines fetch them: after every sync, and whenever an engine starts anew. So a lost engine
needs no learner to come back, a lost learner costs no engine, and every engine gets the same bytes. The buckets lie in
Ray's object store, from where they reach any node once; while a sync runs there are two versions of them, and what
does not fit spills to disk.

Tested in tests/cluster/test_weight_sync.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai_ray.engines.weights.buckets import Layout


@dataclass(frozen=True)
class Weights:
    """One version of the weights. `buckets` is empty where the store keeps no copy (NCCL)."""

    serial: int  # counts syncs; a version may be synced twice, when a step is replayed
    version: int
    buckets: tuple[tuple[Layout, Any], ...]  # layout, ObjectRef of the bytes


NONE_YET = Weights(0, 0, ())  # the engines have what their model folder holds


class WeightStore:
    """A Ray actor. Half a sync counts nothing: a sender that dies leaves the last whole version."""

    def __init__(self) -> None:
        self._newest = NONE_YET
        self._version = 0
        self._buckets: list[tuple[Layout, Any]] = []
        self._num_starts: dict[int, int] = {}

    def begin(self, version: int) -> None:
        """A sync starts; what an earlier one left unfinished is dropped."""
        self._version, self._buckets = version, []

    def add(self, layout: Layout, data: Any) -> None:
        """One bucket, an array of uint8; copied, so that it outlives the process it came from."""
        import ray

        self._buckets.append((layout, ray.put(data)))

    def commit(self) -> None:
        """The sync is whole: from now on this is the newest version."""
        self._newest = Weights(self._newest.serial + 1, self._version, tuple(self._buckets))
        self._buckets = []

    def newest(self) -> Weights:
        return self._newest

    def note_start(self, engine: int) -> None:
        """A rollout engine has started or started anew."""
        self._num_starts[engine] = self._num_starts.get(engine, 0) + 1

    def num_starts(self) -> dict[int, int]:
        """Starts of each engine so far, by its number."""
        return self._num_starts
