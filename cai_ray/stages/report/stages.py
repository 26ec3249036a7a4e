"""The funnel and the bill: what each stage took in, let out, dropped and left out, how long it took, its tokens.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from cai_ray.artifacts import counters as counted
from cai_ray.artifacts.artifact import Manifest
from cai_ray.metrics.training_keys import EXAMPLES_PER_S
from cai_ray.stages.report.source import RunSource


@dataclass(frozen=True)
class StageFacts:
    """One stage of the run."""

    stage: str
    state: Literal["finished", "unfinished", "not run"]
    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by reason, most first
    left_out: dict[str, int] = field(default_factory=dict)  # by the recipe, on purpose; by reason, most first
    flagged: dict[str, int] = field(default_factory=dict)  # kept all the same
    duration_s: float = 0.0
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0  # that requests cost, where their server has a price
    requests: int = 0
    engine_starts: int = 0
    asked_again: int = 0  # rows that waited for a slow engine and were asked of another one as well
    trained_tokens: int = 0
    examples_per_s: float | None = None  # of training, median over steps

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def num_left_out(self) -> int:
        return sum(self.left_out.values())

    @property
    def rows_per_s(self) -> float | None:
        return self.rows_in / self.duration_s if self.duration_s > 0 and self.rows_in else None

    @property
    def output_tokens_per_s(self) -> float | None:
        return self.output_tokens / self.duration_s if self.duration_s > 0 and self.output_tokens else None


def stages_of(source: RunSource, names: Sequence[str]) -> list[StageFacts]:
    """The stages that the recipe has, in order."""
    return [_facts(source, name) for name in names]


def _facts(source: RunSource, stage: str) -> StageFacts:
    artifact = source.artifact(stage)
    if artifact is None:
        return StageFacts(stage, "unfinished" if source.is_begun(stage) else "not run")
    return _finished(stage, artifact.manifest, _examples_per_s(source, stage))


def _finished(stage: str, manifest: Manifest, examples_per_s: float | None) -> StageFacts:
    counters = manifest.counters
    return StageFacts(
        stage=stage,
        state="finished",
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        dropped=_most_first(manifest.rows_dropped),
        left_out=_most_first(manifest.rows_left_out),
        flagged=_most_first(counted.flags(counters)),
        duration_s=manifest.duration_s,
        attempts=manifest.attempts,
        prompt_tokens=counters.get(counted.PROMPT_TOKENS, 0),
        cached_tokens=counters.get(counted.CACHED_TOKENS, 0),
        output_tokens=counters.get(counted.OUTPUT_TOKENS, 0),
        dollars=counters.get(counted.MICRODOLLARS, 0) / 1e6,
        requests=counters.get(counted.REQUESTS, 0),
        engine_starts=counters.get(counted.ENGINE_STARTS, 0),
        asked_again=counters.get(counted.ASKED_AGAIN, 0),
        trained_tokens=counters.get(counted.TRAINED_TOKENS, 0),
        examples_per_s=examples_per_s,
    )


def _most_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _examples_per_s(source: RunSource, stage: str) -> float | None:
    speeds = [entry[EXAMPLES_PER_S] for entry in source.metrics(stage) if EXAMPLES_PER_S in entry]
    return median(speeds) if speeds else None
