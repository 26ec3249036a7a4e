"""Which chart shows what: the numbers of the report as charts.

Tested in tests/stages/report/test_charts.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.metrics.intervals import Estimate, complement
from cai_ray.metrics.names import metric_of
from cai_ray.stages.report.charts import (
    Axis,
    Chart,
    Point,
    Row,
    RowChart,
    Series,
    Value,
    percent,
    plain,
    row_chart,
    xy_chart,
)
from cai_ray.stages.report.policies import PolicyFacts, interval, shown, title_of
from cai_ray.stages.report.preferences import LabelFacts, Reliability, SourceFacts
from cai_ray.stages.report.rounds import RoundFacts
from cai_ray.stages.report.training import Plot, TrainingFacts

UNIT = (0.0, 1.0)
SHARE = Axis("", percent, UNIT)
ROUND_NAMES = {
    "harmful": ("harmful answers", 3),
    "helpful": ("helpfulness", 1),
    "evasive": ("evasive", 4),
    "meta": ("meta-commentary", 5),
}


def _value(slot: int, name: str, found: Estimate, as_share: bool) -> Value:
    title = f"{name}: {shown(found.value, as_share)} {interval(found, as_share)}, n = {found.n:,}"
    return Value(slot, name, found.value, found.low, found.high, title)


def headline_charts(facts: PolicyFacts) -> list[RowChart]:
    """The metrics of the headline, a bar per policy."""
    return [chart for name in facts.telling if (chart := metric_chart(facts, name)) is not None]


def metric_chart(facts: PolicyFacts, name: str) -> RowChart | None:
    metric, as_share = metric_of(name), facts.shares(name)
    rows = []
    for slot, policy in enumerate(facts.policies):
        found = facts.numbers[policy].get(name)
        values = [_value(slot, title_of(policy), found, as_share)] if found else []
        rows.append(Row(title_of(policy), values, shown(found.value, as_share) if found else "-"))
    axis = SHARE if as_share else Axis("", plain)
    better = "" if metric.better == "neither" else f"; {metric.better} is better"
    return row_chart(metric.title, axis, rows, note=metric.meaning + better, bars=as_share, legend=False)


def category_charts(facts: PolicyFacts) -> list[RowChart]:
    """Harm of each harmful category and helpfulness of each harmless one, all policies."""
    charts = []
    for kind in ("harmful", "helpful"):
        name = facts.first_like(kind)
        if name is None:
            continue
        as_share = facts.shares(name)
        categories = sorted(
            {c for found in facts.categories.values() for c, metrics in found.items() if metrics.get(name)}
        )
        rows = [
            Row(
                category,
                [
                    _value(slot, title_of(policy), found, as_share)
                    for slot, policy in enumerate(facts.policies)
                    if (found := facts.categories.get(policy, {}).get(category, {}).get(name))
                ],
            )
            for category in categories
        ]
        axis = Axis(metric_of(name).title.lower(), percent, UNIT) if as_share else Axis(name, plain)
        chart = row_chart(f"{metric_of(name).title} by category", axis, rows, note=metric_of(name).meaning)
        charts += [chart] if chart else []
    return charts


def frontier_chart(facts: PolicyFacts) -> Chart | None:
    """Helpfulness against harmlessness: up and to the right is better."""
    points = _frontier_points(facts)
    slots = {policy: slot for slot, policy in enumerate(facts.policies)}
    series = [
        Series(title_of(policy), slots.get(policy, len(slots)), [point], line=False) for policy, point in points.items()
    ]
    shares = all(-0.001 <= p.x <= 1.001 and -0.001 <= p.y <= 1.001 for p in points.values())
    x = Axis("helpful on harmless requests", percent, UNIT) if shares else Axis("helpful", plain)
    y = Axis("harmless on harmful requests", percent, UNIT) if shares else Axis("harmless", plain)
    return xy_chart("Helpful against harmless", x, y, series, note="up and to the right is better")


def _frontier_points(facts: PolicyFacts) -> dict[str, Point]:
    """The frontier of the evaluation; where it made none, that of the metrics harmful and helpful."""
    found = {
        point.policy: (point.harmless, point.helpful)
        for point in facts.frontier
        if point.harmless is not None and point.helpful is not None
    }
    harm, help_ = facts.first_like("harmful"), facts.first_like("helpful")
    if not found and harm and help_ and facts.shares(harm):
        for policy in facts.policies:
            harmful, helpful = facts.numbers[policy].get(harm), facts.numbers[policy].get(help_)
            if harmful and helpful:
                found[policy] = (complement(harmful), helpful)
    return {
        policy: Point(
            helpful.value,
            harmless.value,
            helpful.low,
            helpful.high,
            harmless.low,
            harmless.high,
            label=title_of(policy),
            title=f"{title_of(policy)}: helpful {helpful.value:.3g}, harmless {harmless.value:.3g}",
            radius=5,
        )
        for policy, (harmless, helpful) in found.items()
    }


def elo_chart(facts: PolicyFacts) -> RowChart | None:
    slots = {policy: slot for slot, policy in enumerate(facts.policies)}
    rows = []
    for one in sorted(facts.elo, key=lambda one: (-one.rating, one.policy)):
        name = title_of(one.policy)
        title = f"{name}: {one.rating:+.0f} [{one.low:+.0f}, {one.high:+.0f}], {one.num_games:,} games"
        value = Value(slots.get(one.policy, len(slots)), name, one.rating, one.low, one.high, title)
        rows.append(Row(name, [value], f"{one.rating:+.0f}"))
    axis = Axis("Elo points above the first policy", plain)
    return row_chart("Elo", axis, rows, note="Bradley-Terry over pairwise games; 95% bootstrap intervals", legend=False)


# --- Rounds ---------------------------------------------------------------------------------------------


def round_charts(facts: RoundFacts) -> list[Chart]:
    """Shares per round, and the preference model's score per round."""
    x = Axis("revision round (0: the initial answer)", plain, whole=True)
    shares = [
        Series(ROUND_NAMES.get(name, (name, 6))[0], ROUND_NAMES.get(name, (name, 6))[1], _by_round(found, True))
        for name, found in facts.shares.items()
    ]
    charts = [
        xy_chart("Harm and help by round", x, Axis("share of answers", percent, UNIT), shares),
        xy_chart(
            "Preference-model score by round",
            x,
            Axis("mean score", plain),
            [Series("score", 1, _by_round(facts.scores, False))],
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _by_round(found: Sequence[Estimate | None], as_share: bool) -> list[Point]:
    return [
        Point(k, one.value, y_low=one.low, y_high=one.high, title=f"round {k}: {shown(one.value, as_share)}")
        for k, one in enumerate(found)
        if one is not None
    ]


# --- Preference model and labels ------------------------------------------------------------------------


def calibration_chart(sources: Sequence[SourceFacts]) -> Chart | None:
    series = [Series(f"{one.source} labels", 1 + k, _reliability(one.bins)) for k, one in enumerate(sources)]
    return xy_chart(
        "Reliability on held-out pairs",
        Axis("the model's confidence", percent, (0.5, 1.0)),
        Axis("what the labels say", percent, UNIT),
        series,
        note="on the line, probabilities mean what they say; larger marks hold more pairs",
        diagonal=True,
    )


def _reliability(bins: Sequence[Reliability]) -> list[Point]:
    most = max((one.num for one in bins), default=1)
    return [
        Point(
            one.confidence,
            one.target,
            y_low=one.low,
            y_high=one.high,
            title=f"confidence {one.confidence:.0%}, labels {one.target:.0%}, {one.num:,} pairs",
            radius=2.5 + 4 * (one.num / most) ** 0.5,
        )
        for one in bins
    ]


def label_chart(facts: LabelFacts) -> RowChart | None:
    """What each average of readings is worth against the oracle."""
    rows = [
        Row(name, [_value(1, "agreement", found.agreement, True)], shown(found.agreement.value, True))
        for name, found in facts.oracle.items()
        if found.agreement is not None
    ]
    axis = Axis("agreement with the oracle", percent, UNIT)
    return row_chart("Labels against the truth", axis, rows, note="pairs on which the oracle has decided", legend=False)


# --- Training -------------------------------------------------------------------------------------------


def training_charts(facts: TrainingFacts) -> list[Chart]:
    note = f"{facts.title}, {facts.num_steps:,} steps"
    charts = [_training_chart(plot, note) for plot in facts.plots]
    return [chart for chart in charts if chart is not None]


def _training_chart(plot: Plot, note: str) -> Chart | None:
    values = [value for curve in plot.curves for _, value in curve.points]
    as_share = plot.unit.startswith("share") and all(0 <= value <= 1 for value in values)
    y = Axis(plot.unit, percent if as_share and max(values) > 0.05 else plain)
    series = [
        Series(
            curve.name,
            1 + k,
            [Point(step, value, title=f"step {step:.0f}: {value:.4g}", radius=2.5) for step, value in curve.points],
            marks=len(curve.points) <= 12,
        )
        for k, curve in enumerate(plot.curves)
    ]
    return xy_chart(plot.title, Axis("step", plain, whole=True), y, series, note=note)
