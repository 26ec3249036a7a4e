"""What the policies are worth, for people: names, metrics in words, numbers, and the sentence at the top.

The numbers are those of `<run>/evaluate/summary.json`; nothing is computed anew.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cai_ray.artifacts.summaries.evaluation import (
    ByMetric,
    Diversity,
    EvaluationSummary,
    FrontierPoint,
    JudgeAgreement,
    JudgeFacts,
    WinRates,
)
from cai_ray.metrics.elo import Rating
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.names import (
    BOILERPLATE,
    HEADLINE,
    Metric,
    in_order,
    is_share,
    judges_harm,
    kind_of,
    metric_of,
    most_telling,
)
from cai_ray.stages.cells import percent, points
from cai_ray.stages.report.source import RunSource

EVALUATE = "evaluate"
NO_HARM_JUDGED = (
    "No judge of harm ran: these numbers say how the policies answer, not whether an answer does harm. Add a judge to "
    "the recipe, such as this one, and run it again with --from evaluate --fresh."
)
ADD_A_JUDGE = """\
models:
  guard: {path: meta-llama/Llama-Guard-3-8B}
evaluate:
  judges:
  - {kind: guard, model: guard}"""
BASE = "base"  # what the recipe's model "policy" is called here
_SHOWN_AS = {"policy": BASE}
_TITLES = {BASE: "Base", "sl_cai": "SL-CAI", "rl_cai": "RL-CAI", "dpo": "DPO"}


def key_of(policy: str) -> str:
    """A policy's name in report.json."""
    return _SHOWN_AS.get(policy, policy)


def title_of(policy: str) -> str:
    """A policy's name on the page."""
    key = key_of(policy)
    return _TITLES.get(key, key)


@dataclass(frozen=True)
class PolicyFacts:
    """The evaluation, in the order of its policies; the first is the reference."""

    policies: list[str]
    metrics: list[str]  # harm first
    numbers: dict[str, ByMetric]  # policy -> metric -> numbers
    differences: dict[str, ByMetric]  # policy -> metric -> numbers, from the reference
    categories: dict[str, dict[str, ByMetric]]  # policy -> category -> metric -> numbers
    unjudged: dict[str, dict[str, int]]
    dropped: dict[str, dict[str, int]]
    phrases: dict[str, dict[str, float]]  # policy -> phrase -> share of prompts
    elo: Sequence[Rating]
    win_rates: Sequence[WinRates]
    frontier: Sequence[FrontierPoint]  # of policies whose harm and help were both judged
    judges: dict[str, JudgeFacts]
    judge_agreement: Sequence[JudgeAgreement]
    num_prompts: int
    samples_per_prompt: int

    @property
    def reference(self) -> str:
        return self.policies[0]

    @property
    def final(self) -> str:
        """The policy that the run was for: the furthest trained one there is."""
        return next((name for name in ("rl_cai", "dpo", "sl_cai") if name in self.policies), self.policies[-1])

    def first_like(self, metric: str) -> str | None:
        """The metric of this name, or the first scorer's that gives one of this kind: "harmful" or "harmful.x"."""
        return next((name for name in self.metrics if kind_of(name) == metric), None)

    @property
    def judged(self) -> list[str]:
        """The metrics that have a number for some policy."""
        return [name for name in self.metrics if any(self.numbers[policy].get(name) for policy in self.policies)]

    @property
    def telling(self) -> list[str]:
        """The metrics of the headline: harm, help and evasion, or what comes nearest."""
        return most_telling(self.judged, len(HEADLINE))

    @property
    def harm_is_judged(self) -> bool:
        """By a metric, or in games of two answers."""
        return any(map(judges_harm, [*self.judged, *(row.aspect for row in self.win_rates)]))

    def shares(self, metric: str) -> bool:
        found = (self.numbers[policy].get(metric) for policy in self.policies)
        return is_share(metric, [one.value for one in found if one is not None])


def policies_of(source: RunSource) -> PolicyFacts | None:
    """The evaluation's numbers; None without them."""
    summary = source.summary(EVALUATE, EvaluationSummary)
    if summary is None or not summary.policies:
        return None
    numbers = {
        policy: {**metrics, **_boilerplate(summary.diversity[policy])} for policy, metrics in summary.policies.items()
    }
    return PolicyFacts(
        policies=list(numbers),
        metrics=in_order({metric for metrics in numbers.values() for metric in metrics}),
        numbers=numbers,
        differences=summary.differences,
        categories=summary.categories,
        unjudged=summary.unjudged,
        dropped=summary.dropped,
        phrases={policy: one.phrases for policy, one in summary.diversity.items()},
        elo=summary.elo,
        win_rates=summary.win_rates,
        frontier=[point for point in summary.frontier if point.harmless is not None and point.helpful is not None],
        judges=summary.judges,
        judge_agreement=summary.judge_agreement,
        num_prompts=summary.num_prompts,
        samples_per_prompt=summary.samples_per_prompt,
    )


def _boilerplate(diversity: Diversity) -> ByMetric:
    return {BOILERPLATE: diversity.boilerplate} if diversity.boilerplate is not None else {}


# --- Numbers in words -----------------------------------------------------------------------------------


def shown(number: float, as_share: bool, signed: bool = False) -> str:
    """ "40.2%", "-58.7", "1.23": differences of shares are in points."""
    if not as_share:
        return format(number, "+.3g" if signed else ".3g")
    if signed:
        return points(number)
    return percent(number)


def interval(found: Estimate, as_share: bool, signed: bool = False, least: float = 0.0) -> str:
    """ "[30.8%, 50.4%]"; that of a share is cut to [least, 1], beyond which no share lies."""
    low, high = found.low, found.high
    if as_share and not signed:
        low, high = max(least, low), min(1.0, high)
    return f"[{shown(low, as_share, signed)}, {shown(high, as_share, signed)}]"


class Claim(NamedTuple):
    """One sentence of the headline."""

    metric: Metric
    before: str
    after: str
    change: str  # "-58.7 points [-67.7, -47.2]"
    verdict: Literal["better", "worse", "no clear change"]


def headline(facts: PolicyFacts, policy: str) -> list[Claim]:
    """How `policy` differs from the reference, metric by metric; a change is clear when its interval leaves out 0."""
    claims = []
    for name in facts.telling:
        before, after = facts.numbers[facts.reference].get(name), facts.numbers[policy].get(name)
        change = facts.differences.get(policy, {}).get(name)
        if before is None or after is None or change is None:
            continue
        metric, as_share = metric_of(name), facts.shares(name)
        points = " points" if as_share else ""
        claims.append(
            Claim(
                metric,
                shown(before.value, as_share),
                shown(after.value, as_share),
                f"{shown(change.value, as_share, True)}{points} {interval(change, as_share, True)}",
                _verdict(metric, change),
            )
        )
    return claims


def _verdict(metric: Metric, change: Estimate) -> Literal["better", "worse", "no clear change"]:
    if change.low <= 0 <= change.high or metric.better == "neither":
        return "no clear change"
    return "better" if (change.value > 0) == (metric.better == "higher") else "worse"
