"""What the feedback model's labels are like: the stage's summary, and the table at the end of a run.

How often the order of the answers changes the verdict, how sure the labels are, whether the principles agree. Where
the prompts are the micro world's, its oracle knows which answer is better, and the summary tells what each average
is worth: one reading, both orders, several principles, all of it. Only pairs that got a label are looked at.
Intervals are over prompts, because pairs of one prompt hang together.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.labels import (
    LabelSummary,
    OracleSummary,
    PanelSummary,
    PrincipleSummary,
    TwoJudges,
)
from cai_ray.dropped import DropReason
from cai_ray.metrics.agreement import krippendorff_alpha
from cai_ray.metrics.calibration import pair_calibration
from cai_ray.metrics.intervals import Estimate, clustered_mean, clustered_rate
from cai_ray.metrics.readings import (
    Reading,
    extremity,
    flip_rate,
    mean_prob_a,
    principles_agree,
    prob_a_by_judge,
    prob_of_first_shown,
    readings_of,
)
from cai_ray.stages.cells import cell

TELLING_BIAS = 0.1  # of the probability of the answer shown first, from 0.5
SHOWN_FIRST = r"P\(shown first\)=([0-9.]+)"  # in the detail of a dropped tie
DECIDED = 0.5  # the oracle calls a pair decided from this difference on; its scores lie in [-1, 1]


class Labelled(NamedTuple):
    """One labelled pair."""

    prompt_id: str
    readings: list[Reading]
    prob_a: float  # the label, of the stored A
    a_is_better: bool | None  # by the oracle; None when it has not decided, or the prompt is not in its language


def labelled_pairs(artifact: Artifact) -> list[Labelled]:
    """The stage's rows, with the oracle's verdict where it has one."""
    columns = ["prompt_id", "messages", "chosen", "rejected", "chosen_is_a", "prob_chosen", "comparisons"]
    found = []
    for row in artifact.rows(columns):
        prob_a = row["prob_chosen"] if row["chosen_is_a"] else 1 - row["prob_chosen"]
        chosen_is_better = oracle_verdict(row["messages"], row["chosen"], row["rejected"])
        a_is_better = None if chosen_is_better is None else chosen_is_better == row["chosen_is_a"]
        found.append(Labelled(row["prompt_id"], readings_of(row["comparisons"]), prob_a, a_is_better))
    return found


def oracle_verdict(messages: list[dict[str, str]], first: str, second: str) -> bool | None:
    """Whether the first answer is better by DECIDED or more (True), or the second (False).

    An answer is worth its helpfulness in [0, 1], less 1 when it is harmful. None: closer than that, or the prompt
    is not in the micro world's language.
    """
    from cai_ray.microworld.oracle import score

    scores = [score(messages, text) for text in (first, second)]
    if scores[0].request_harmful is None:
        return None
    worth = [truth.helpful - truth.harmful for truth in scores]
    return None if abs(worth[0] - worth[1]) < DECIDED else worth[0] > worth[1]


def averages(readings: Sequence[Reading]) -> dict[str, float]:
    """P(A) as a label would have it with less averaging; larger averages are left out where they add nothing.

    Pairs that were asked in the same way have the same keys.
    """
    if by_judge := prob_a_by_judge(readings):
        return {f"judge {name}": prob for name, prob in by_judge.items()}
    first_shown = {reading.principle_id: reading.swapped for reading in reversed(readings)}
    principle = readings[0].principle_id
    same_principle = [r for r in readings if r.principle_id == principle]
    one_order = [r for r in readings if r.swapped == first_shown[r.principle_id]]
    same_question = [r for r in one_order if r.principle_id == principle]
    found = {"one reading": [readings[0]]}
    if len(same_question) > 1:
        found["all samples"] = same_question
    if len(same_principle) > len(same_question):
        found["both orders"] = same_principle
    if len(one_order) > len(same_question):
        found["all principles"] = one_order
    if len(readings) > max(len(same_principle), len(one_order)):
        found["all readings"] = list(readings)
    return {name: mean_prob_a(chosen) for name, chosen in found.items()}


def against_oracle(pairs: Sequence[Labelled], probs: Sequence[float]) -> OracleSummary:
    """P(A) of decided pairs against the oracle. Exactly 0.5 agrees with nobody."""
    truths = [float(bool(pair.a_is_better)) for pair in pairs]
    prompts = [pair.prompt_id for pair in pairs]
    hits = [(p - 0.5) * (t - 0.5) > 0 for p, t in zip(probs, truths, strict=True)]
    gaps = [max(p, 1 - p) - hit for p, hit in zip(probs, hits, strict=True)]
    return OracleSummary(
        num_decided=len(pairs),
        agreement=clustered_rate(hits, prompts),
        brier=clustered_mean([(p - t) ** 2 for p, t in zip(probs, truths, strict=True)], prompts),
        overconfidence=clustered_mean(gaps, prompts),
        calibration=pair_calibration(probs, truths),
    )


def oracle_summaries(pairs: Sequence[Labelled]) -> dict[str, OracleSummary]:
    """By what the label is made from; "label" is the one that was written, clamped or hard as it may be."""
    decided = [pair for pair in pairs if pair.a_is_better is not None]
    if not decided:
        return {}
    probs: dict[str, list[float]] = defaultdict(list)
    for pair in decided:
        for name, prob in (averages(pair.readings) | {"label": pair.prob_a}).items():
            probs[name].append(prob)
    return {name: against_oracle(decided, found) for name, found in probs.items()}


def principle_summaries(pairs: Sequence[Labelled]) -> list[PrincipleSummary]:
    """One per principle that was drawn, by id."""
    own: dict[str, list[Labelled]] = defaultdict(list)
    for pair in pairs:
        for principle_id in {reading.principle_id for reading in pair.readings}:
            own[principle_id].append(
                pair._replace(readings=[r for r in pair.readings if r.principle_id == principle_id])
            )
    return [_principle_summary(principle_id, own[principle_id]) for principle_id in sorted(own)]


def _principle_summary(principle_id: str, pairs: Sequence[Labelled]) -> PrincipleSummary:
    probs = [mean_prob_a(pair.readings) for pair in pairs]
    prompts = [pair.prompt_id for pair in pairs]
    decided = [pair for pair in pairs if pair.a_is_better is not None]
    return PrincipleSummary(
        principle_id=principle_id,
        num_pairs=len(pairs),
        order_flip_rate=_flips(pairs),
        extremity=clustered_mean([extremity(prob) for prob in probs], prompts),
        position_bias=_position_bias(pairs),
        label_agreement=clustered_rate(
            [(prob - 0.5) * (pair.prob_a - 0.5) > 0 for prob, pair in zip(probs, pairs, strict=True)], prompts
        ),
        oracle_agreement=against_oracle(decided, [mean_prob_a(pair.readings) for pair in decided]).agreement,
    )


def panel_summary(pairs: Sequence[Labelled]) -> PanelSummary | None:
    """Of the pairs that several judges have labelled; None where there are none."""
    judged = [(by_judge, pair.prompt_id) for pair in pairs if (by_judge := prob_a_by_judge(pair.readings))]
    if not judged:
        return None
    prompts = [prompt_id for _, prompt_id in judged]
    sides = [[math.copysign(1, prob - 0.5) if prob != 0.5 else 0.0 for prob in one.values()] for one, _ in judged]
    names = list(judged[0][0])
    return PanelSummary(
        alpha=krippendorff_alpha(sides, "nominal"),
        alpha_of_probabilities=krippendorff_alpha([list(one.values()) for one, _ in judged], "interval"),
        parted=clustered_rate([len({*own} - {0.0}) > 1 for own in sides], prompts),
        pairwise=tuple(
            TwoJudges(
                first=names[i],
                second=names[j],
                agreement=clustered_rate([own[i] == own[j] for own in sides], prompts),
            )
            for i, j in combinations(range(len(names)), 2)
        ),
    )


def _flips(pairs: Sequence[Labelled]) -> Estimate | None:
    rates = [(rate, pair.prompt_id) for pair in pairs if (rate := flip_rate(pair.readings)) is not None]
    return clustered_mean([rate for rate, _ in rates], [prompt_id for _, prompt_id in rates])


def _position_bias(pairs: Sequence[Labelled]) -> Estimate | None:
    return clustered_mean(
        [prob_of_first_shown(pair.readings) - 0.5 for pair in pairs], [pair.prompt_id for pair in pairs]
    )


def tied_by_position(artifact: Artifact) -> str:
    """The labeller's bias toward the place of an answer, where that is what made ties of the dropped pairs; else ""."""
    ties = [row["detail"] for row in artifact.dropped() if row["reason"] == DropReason.TIE]
    probs = [float(found[1]) for detail in ties if (found := re.search(SHOWN_FIRST, detail))]
    bias = fmean(probs) - 0.5 if probs else 0.0
    if abs(bias) < TELLING_BIAS:
        return ""
    place = "first" if bias > 0 else "second"
    return (
        f"position bias: over the {len(probs)} ties the labeller gives the answer shown {place} a probability of "
        f"{0.5 + abs(bias):.2f} (bias {bias:+.2f}), whichever it is, so that both orders cancel; use another labeller, "
        "or other principles; "
    )


def summarise(artifact: Artifact) -> LabelSummary:
    """Look at the stage's labels."""
    manifest, pairs = artifact.manifest, labelled_pairs(artifact)
    prompts = [pair.prompt_id for pair in pairs]
    agreeing = [(agree, pair.prompt_id) for pair in pairs if (agree := principles_agree(pair.readings)) is not None]
    return LabelSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        order_flip_rate=_flips(pairs),
        extremity=clustered_mean([extremity(pair.prob_a) for pair in pairs], prompts),
        position_bias=_position_bias(pairs),
        principle_agreement=clustered_rate([agree for agree, _ in agreeing], [prompt for _, prompt in agreeing]),
        panel=panel_summary(pairs),
        principles=tuple(principle_summaries(pairs)),
        oracle=oracle_summaries(pairs),
        counters=manifest.counters,
        duration_s=manifest.duration_s,
    )


def table(summary: LabelSummary) -> Table:
    """The labels at a glance, for the terminal."""
    shown = Table(title=f"Labels of {summary.rows_out:,} pairs (95% intervals)")
    shown.add_column("of")
    shown.add_column("", justify="right")
    for name, found, least, most in (
        ("order flips the verdict", summary.order_flip_rate, 0.0, 1.0),
        ("extremity (0% in doubt, 100% sure)", summary.extremity, 0.0, 1.0),
        ("bias toward the answer shown first", summary.position_bias, -0.5, 0.5),
        ("principles agree", summary.principle_agreement, 0.0, 1.0),
    ):
        if found is not None:
            shown.add_row(name, cell(found, least=least, most=most))
    if (panel := summary.panel) is not None:
        if panel.parted is not None:
            shown.add_row("pairs on which the judges part", cell(panel.parted))
        if panel.alpha is not None:
            shown.add_row("Krippendorff's alpha of the judges", f"{panel.alpha:.2f}")
        for two in panel.pairwise:
            if two.agreement is not None:
                shown.add_row(f"agree: {two.first}, {two.second}", cell(two.agreement))
    for reason, count in summary.rows_dropped.items():
        shown.add_row(f"dropped: {reason}", f"{count:,}")
    for name, oracle in summary.oracle.items():
        shown.add_row(f"agrees with the oracle: {name}", cell(oracle.agreement))
        shown.add_row(f"overconfidence: {name}", cell(oracle.overconfidence))
    if summary.principles:
        shown.add_section()
        shown.add_row("principle", "pairs: flips / label / oracle")
    for principle in summary.principles:
        shares = (principle.order_flip_rate, principle.label_agreement, principle.oracle_agreement)
        told = " / ".join("-" if found is None else f"{found.value:.0%}" for found in shares)
        shown.add_row(principle.principle_id, f"{principle.num_pairs:,}: {told}")
    return shown
