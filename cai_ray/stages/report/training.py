"""Training curves: what the training stages wrote to `metrics.jsonl`, step by step.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from cai_ray.metrics import training_keys as keys
from cai_ray.microworld.oracle import score
from cai_ray.stages.report.source import RunSource

MOST_POINTS = 240  # of one curve; more are averaged into as many


class Curve(NamedTuple):
    """One metric over steps."""

    name: str
    points: list[tuple[float, float]]  # (step, value), steps ascending


class Plot(NamedTuple):
    """Curves that share axes."""

    title: str
    unit: str
    curves: list[Curve]


@dataclass(frozen=True)
class TrainingFacts:
    """One training stage."""

    stage: str
    title: str
    plots: list[Plot]
    last: dict[str, float]  # newest value of each metric
    num_steps: int
    events: list[str]  # restarts, skipped updates, rollbacks


class Panel(NamedTuple):
    """What a plot shows of a stage's metrics: `names` maps a key of metrics.jsonl to its curve's name."""

    title: str
    unit: str
    names: dict[str, str]


ANSWERS = {
    keys.REFUSAL_RATE: "refusal",
    keys.EVASIVE_RATE: "evasive",
    keys.BOILERPLATE_RATE: "boilerplate",
    keys.TRUNCATED: "cut off",
}
PHASES: dict[str, str] = {keys.seconds_of(phase): phase for phase in keys.PHASES}
REFRESHES = {
    keys.refresh_fit("held_out", "accuracy", "before"): "before a refresh",
    keys.refresh_fit("held_out", "accuracy", "after"): "after it",
}
CLIPPED = {keys.CLIP_FRACTION: "policy", keys.VALUE_CLIP_FRACTION: "value"}
TRUTH = {"oracle_harmful": "harmful", "oracle_helpful": "helpful"}
LOSS = Panel("Loss", "nats", {keys.LOSS: "training", keys.EVAL_LOSS: "held out"})
STAGES: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "train_sft": (
        "Supervised fine-tuning",
        (
            LOSS,
            Panel("Token accuracy", "share", {keys.TOKEN_ACCURACY: "training", keys.EVAL_TOKEN_ACCURACY: "held out"}),
        ),
    ),
    "train_preference_model": (
        "Preference model",
        (LOSS, Panel("Pair accuracy", "share", {keys.PAIR_ACCURACY: "training", keys.EVAL_PAIR_ACCURACY: "held out"})),
    ),
    "train_dpo": (
        "Direct preference optimisation",
        (
            LOSS,
            Panel("Pair accuracy", "share", {keys.DPO_ACCURACY: "training", keys.EVAL_DPO_ACCURACY: "held out"}),
        ),
    ),
    "train_ppo": (
        "Reinforcement learning (PPO)",
        (
            Panel("Reward", "score", {keys.SCORE: "mean of a step"}),
            # Beside the score: a score that rises while the truth does not is over-optimisation.
            Panel("The oracle on kept answers", "mean of a step", TRUTH),
            Panel("KL from the start", "nats per answer", {keys.KL: "KL"}),
            Panel("Entropy", "nats per token", {keys.ENTROPY: "entropy"}),
            Panel("How it answers", "share of answers", ANSWERS),
            Panel("The judge", "share of answers", {keys.UNREAD: "without a verdict"}),
            Panel(
                "Tokens of the judge",
                "a step",
                {keys.JUDGE_TOKENS: "read and written", keys.JUDGE_CACHED_TOKENS: "of these cached"},
            ),
            Panel("Answer length", "tokens", {keys.LENGTH: "mean", keys.LENGTH_MAX: "longest"}),
            Panel("Clipped ratios", "share of tokens", CLIPPED),
            Panel("Losses", "loss", {keys.POLICY_LOSS: "policy", keys.VALUE_LOSS: "value"}),
            Panel("Explained variance of returns", "share", {keys.EXPLAINED_VARIANCE: "value model"}),
            Panel("Variety", "distinct-2", {keys.DISTINCT: "distinct-2"}),
            Panel("Preference model on fresh pairs", "share ranked right", REFRESHES),
            Panel("Sampler against learner", "nats per token", {keys.SAMPLER_GAP: "mean gap"}),
            Panel("Speed", "answers per second", {keys.EPISODES_PER_S: "answers"}),
            Panel("Where a step's time goes", "seconds", PHASES),
        ),
    ),
}


def training_of(source: RunSource, names: Sequence[str]) -> list[TrainingFacts]:
    """The training stages among `names` that have written anything."""
    found = [_facts(source, stage) for stage in names if stage in STAGES]
    return [facts for facts in found if facts.num_steps]


def _facts(source: RunSource, stage: str) -> TrainingFacts:
    title, panels = STAGES[stage]
    entries = source.metrics(stage)
    series = _series(entries)
    if stage == "train_ppo":
        series |= truth_by_step(source.rows(stage))
    plots = [plot for panel in panels if (plot := _plot(panel, series)).curves]
    steps = [step for points in series.values() for step in points]
    return TrainingFacts(
        stage=stage,
        title=title,
        plots=plots,
        last={name: points[max(points)] for name, points in sorted(series.items())},
        num_steps=int(max(steps, default=0)),
        events=[str(entry[keys.EVENT]) for entry in entries if keys.EVENT in entry],
    )


def _series(entries: Sequence[dict[str, Any]]) -> dict[str, dict[float, float]]:
    """Metric -> step -> value. A step that a later attempt did again counts as it was done last."""
    found: dict[str, dict[float, float]] = {}
    for entry in entries:
        step = entry.get(keys.STEP)
        if step is None or not _is_number(step):
            continue
        for name, value in entry.items():
            if _is_number(value) and name not in keys.PLACES:
                found.setdefault(name, {})[step] = float(value)
    return found


def truth_by_step(rollouts: Iterable[dict[str, Any]]) -> dict[str, dict[float, float]]:
    """The oracle's metrics of kept answers by step, in the micro world; nothing for other worlds' prompts.

    oracle_harmful is of harmful requests, oracle_helpful of the others.
    """
    found: dict[str, dict[float, list[float]]] = {name: {} for name in TRUTH}
    for row in rollouts:
        truth = score(row["messages"], row["response"])
        if truth.request_harmful is None:
            continue
        name, value = (
            ("oracle_harmful", float(truth.harmful)) if truth.request_harmful else ("oracle_helpful", truth.helpful)
        )
        found[name].setdefault(row["step"], []).append(value)
    return {name: {step: fmean(own) for step, own in steps.items()} for name, steps in found.items() if steps}


def _is_number(value: Any) -> bool:
    """A finite number: JSON lines may hold NaN and infinity, which no axis does."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _plot(panel: Panel, series: dict[str, dict[float, float]]) -> Plot:
    there = {key: name for key, name in panel.names.items() if key in series}
    return Plot(panel.title, panel.unit, [Curve(name, thinned(sorted(series[k].items()))) for k, name in there.items()])


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: neighbours are averaged."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(fmean(step for step, _ in group), fmean(value for _, value in group)) for group in groups]
