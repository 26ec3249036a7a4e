"""What a cluster's metrics endpoints say of a run, beside what Ray and vLLM say of themselves.

Ray exports each as `ray_<name>` (a counter as `ray_<name>_total`) on the metrics port of the node that it was counted
on. A tag is a run's name, a stage, or of a closed set: never a text, a key or a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from cai_ray.artifacts import counters as counted
from cai_ray.artifacts.parts import PartRecord
from cai_ray.artifacts.storage import Storage

ROWS = "cai_ray_rows"
ROWS_DROPPED = "cai_ray_rows_dropped"
TOKENS = "cai_ray_tokens"
ROWS_IN_FLIGHT = "cai_ray_rows_in_flight"
ENGINE_RESTARTS = "cai_ray_engine_restarts"
PPO_SCORE = "cai_ray_ppo_score"
PPO_KL = "cai_ray_ppo_kl"
RUN, STAGE, REASON, KIND = "run", "stage", "reason", "kind"
_KINDS = {counted.PROMPT_TOKENS: "prompt", counted.CACHED_TOKENS: "cached", counted.OUTPUT_TOKENS: "output"}
COUNTERS: Mapping[str, str] = {
    ROWS: "Rows that a stage committed.",
    ROWS_DROPPED: "Rows that a stage dropped, by reason.",
    TOKENS: "Tokens of committed rows: read by the engines, of these served by the prefix cache, and written.",
    ENGINE_RESTARTS: "Engines that were started again because one had died or hung.",
}
GAUGES: Mapping[str, str] = {
    ROWS_IN_FLIGHT: "Conversations that are open in engines.",
    PPO_SCORE: "Mean score of the newest PPO step's answers, in the preference model's units.",
    PPO_KL: "KL of the newest PPO step from the start, nats per answer.",
}
TAGS: Mapping[str, tuple[str, ...]] = {ROWS_DROPPED: (RUN, STAGE, REASON), TOKENS: (RUN, STAGE, KIND)}


@cache
def _metric(name: str) -> Any:
    """The one of its name in this process."""
    from ray.util.metrics import Counter, Gauge

    kind, text = (Counter, COUNTERS[name]) if name in COUNTERS else (Gauge, GAUGES[name])
    return kind(name, description=text, tag_keys=TAGS.get(name, (RUN, STAGE)))


@dataclass(frozen=True)
class Exported:
    """The metrics of one stage of a run; picklable. Needs a connected Ray."""

    run: str
    stage: str

    @classmethod
    def of(cls, folder: Storage, stage: str) -> Exported:
        """Of the stage's folder, which lies in its run's."""
        return cls(PurePosixPath(folder.path()).parent.name, stage)

    def _count(self, name: str, num: int, **tags: str) -> None:
        if num:  # Ray refuses to count nothing
            _metric(name).inc(num, {RUN: self.run, STAGE: self.stage, **tags})

    def _set(self, name: str, value: float) -> None:
        _metric(name).set(value, {RUN: self.run, STAGE: self.stage})

    def count(self, part: PartRecord) -> None:
        """One committed part."""
        self._count(ROWS, part.num_rows)
        for reason, num in part.dropped_by_reason.items():
            self._count(ROWS_DROPPED, num, reason=reason)
        for counter, kind in _KINDS.items():
            self._count(TOKENS, part.counters.get(counter, 0), kind=kind)

    def restarted(self, num_engines: int) -> None:
        self._count(ENGINE_RESTARTS, num_engines)

    def in_flight(self, num_rows: int) -> None:
        self._set(ROWS_IN_FLIGHT, num_rows)

    def ppo_step(self, score: float, kl: float) -> None:
        self._set(PPO_SCORE, score)
        self._set(PPO_KL, kl)
