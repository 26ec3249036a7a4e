"""What the feedback model's labels are like: `<run>/label_comparisons/summary.json` and the table at the end of a run.

How often the order of the answers changes the verdict, how sure the labels are, whether the principles agree. Where
the prompts are the micro world's, its oracle knows which answer is better, and the summary tells what each average
is worth: one reading, both orders, several principles, all of it. Only pairs that got a label are looked at.
Intervals are over prompts, because pairs of one prompt hang together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import Config
from cai_ray.metrics.calibration import Calibration, pair_calibration
from cai_ray.metrics.intervals import Estimate, clustered_mean, clustered_rate
from cai_ray.metrics.readings import (
    Reading,
    extremity,
    flip_rate,
    mean_prob_a,
    principles_agree,
    prob_of_first_shown,
    readings_of,
)

SUMMARY = "summary.json"
DECIDED = 0.5  # the oracle calls a pair decided from this difference on; its scores lie in [-1, 1]


class Labelled(NamedTuple):
    """One labelled pair."""

    prompt_id: str
    readings: list[Reading]
    prob_a: float  # the label, of the stored A
    a_is_better: bool | None  # by the oracle; None when it has not decided, or the prompt is not in its language


class PrincipleSummary(Config):
    """One principle's own label of the pairs it was drawn for."""

    principle_id: str
    num_pairs: int
    order_flip_rate: Estimate | None
    extremity: Estimate | None  # 0 in doubt, 1 sure
    position_bias: Estimate | None
    label_agreement: Estimate | None  # favours the answer that the label favours
    oracle_agreement: Estimate | None


class OracleSummary(Config):
    """Labels against the oracle's verdict on decided pairs."""

    num_decided: int
    agreement: Estimate | None  # favours the answer that the oracle favours
    brier: Estimate | None  # squared difference of P(A) from the verdict, 0 or 1
    overconfidence: Estimate | None  # confidence less agreement: above 0 the labels are too sure, below 0 not enough
    calibration: Calibration | None


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


def _flips(pairs: Sequence[Labelled]) -> Estimate | None:
    rates = [(rate, pair.prompt_id) for pair in pairs if (rate := flip_rate(pair.readings)) is not None]
    return clustered_mean([rate for rate, _ in rates], [prompt_id for _, prompt_id in rates])


def _position_bias(pairs: Sequence[Labelled]) -> Estimate | None:
    return clustered_mean(
        [prob_of_first_shown(pair.readings) - 0.5 for pair in pairs], [pair.prompt_id for pair in pairs]
    )


def summarise(artifact: Artifact) -> dict[str, Any]:
    """Look at the stage's labels, write `summary.json` beside its manifest and return it."""
    manifest, pairs = artifact.manifest, labelled_pairs(artifact)
    prompts = [pair.prompt_id for pair in pairs]
    agreeing = [(agree, pair.prompt_id) for pair in pairs if (agree := principles_agree(pair.readings)) is not None]
    estimates = {
        "order_flip_rate": _flips(pairs),  # of questions put both ways
        "extremity": clustered_mean([extremity(pair.prob_a) for pair in pairs], prompts),  # 0 in doubt, 1 sure
        "position_bias": _position_bias(pairs),  # mean P(the answer shown as (A)) - 0.5
        "principle_agreement": clustered_rate([agree for agree, _ in agreeing], [prompt for _, prompt in agreeing]),
    }
    summary = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_dropped": manifest.rows_dropped,
        **{name: estimate.model_dump(mode="json") if estimate else None for name, estimate in estimates.items()},
        "principles": [principle.model_dump(mode="json") for principle in principle_summaries(pairs)],
        "oracle": {name: found.model_dump(mode="json") for name, found in oracle_summaries(pairs).items()},
        "counters": manifest.counters,
        "duration_s": manifest.duration_s,
    }
    artifact.folder.write(SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def read_summary(artifact: Artifact) -> dict[str, Any]:
    """The summary, written now if a crash came between the manifest and it."""
    return artifact.written(SUMMARY, summarise)


def table(summary: dict[str, Any]) -> Table:
    """The labels at a glance, for the terminal."""
    shown = Table(title=f"Labels of {summary['rows_out']} pairs (95% intervals)")
    shown.add_column("of")
    shown.add_column("", justify="right")
    for name, key in (
        ("order flips the verdict", "order_flip_rate"),
        ("extremity (0 in doubt, 1 sure)", "extremity"),
        ("bias toward the answer shown first", "position_bias"),
        ("principles agree", "principle_agreement"),
    ):
        if summary[key] is not None:
            shown.add_row(name, _cell(summary[key]))
    for reason, count in summary["rows_dropped"].items():
        shown.add_row(f"dropped: {reason}", str(count))
    for name, found in summary["oracle"].items():
        shown.add_row(f"agrees with the oracle: {name}", _cell(found["agreement"]))
        shown.add_row(f"overconfidence: {name}", _cell(found["overconfidence"]))
    for principle in summary["principles"]:
        shown.add_row(f"principle {principle['principle_id']}", _principle_cell(principle))
    return shown


def _principle_cell(principle: dict[str, Any]) -> str:
    kinds = (
        ("flips", "order_flip_rate"),
        ("with the label", "label_agreement"),
        ("with the oracle", "oracle_agreement"),
    )
    shares = [f"{name} {principle[key]['value']:.0%}" for name, key in kinds if principle[key] is not None]
    return ", ".join([f"{principle['num_pairs']} pairs", *shares])


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:.1%}  [{estimate['low']:.1%}, {estimate['high']:.1%}]"
