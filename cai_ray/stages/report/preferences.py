"""Labels and the preference model: do their probabilities mean what they say, and how far do readings agree?

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from cai_ray.artifacts.summaries.labels import LabelSummary, OracleSummary, PrincipleSummary
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary
from cai_ray.metrics.calibration import Bin, sigmoid
from cai_ray.metrics.intervals import Estimate, clustered_mean
from cai_ray.rows import EVAL_SCORES
from cai_ray.stages.report.source import DAMAGED, RunSource

LABELS = "label_comparisons"
PREFERENCE_MODEL = "train_preference_model"


class Reliability(NamedTuple):
    """One bin of a reliability diagram."""

    confidence: float  # mean predicted probability of the likelier side, [0.5, 1]
    target: float  # mean label of that side, [0, 1]
    low: float  # 95% over prompts; both are the value where one prompt says nothing of the spread
    high: float
    num: int


class SourceFacts(NamedTuple):
    """The preference model on the pairs of one source of labels."""

    source: str  # "ai" | "human"
    num_pairs: int
    accuracy: Estimate
    ece: float
    brier: float
    bins: list[Reliability]


class LabelEstimate(NamedTuple):
    """A number about all labels."""

    found: Estimate
    least: float  # that it can be


@dataclass(frozen=True)
class LabelFacts:
    """What the labels are like."""

    num_pairs: int
    estimates: dict[str, LabelEstimate]  # by what it is, in words
    oracle: dict[str, OracleSummary]  # what the label is made from -> what it is worth
    principles: Sequence[PrincipleSummary]


def labels_of(source: RunSource) -> LabelFacts | None:
    summary = source.summary(LABELS, LabelSummary)
    if summary is None:
        return None
    found = {
        "verdicts that change with the order of the answers": (summary.order_flip_rate, 0.0),
        "extremity: 0 in doubt, 1 sure": (summary.extremity, 0.0),
        "bias toward the answer shown first": (summary.position_bias, -0.5),
        "pairs on which all principles agree": (summary.principle_agreement, 0.0),
        "pairs on which the judges of the panel part": (summary.panel.parted if summary.panel else None, 0.0),
    }
    return LabelFacts(
        num_pairs=summary.rows_out,
        estimates={words: LabelEstimate(one, least) for words, (one, least) in found.items() if one is not None},
        oracle=summary.oracle,
        principles=summary.principles,
    )


def preference_model_of(source: RunSource) -> list[SourceFacts]:
    """The preference model on its evaluation pairs, by source of labels; empty without any."""
    summary = source.summary(PREFERENCE_MODEL, PreferenceModelSummary)
    sources = summary.sources if summary is not None else {}
    scores = _scores(source) if sources else []
    return [
        SourceFacts(
            name,
            found.num_pairs,
            found.accuracy,
            found.calibration.ece,
            found.calibration.brier,
            reliability(found.calibration.bins, [row for row in scores if row["label_source"] == name]),
        )
        for name, found in sources.items()
    ]


def _scores(source: RunSource) -> list[dict[str, Any]]:
    try:
        content = (source.run / PREFERENCE_MODEL).read(EVAL_SCORES)
        return pq.read_table(io.BytesIO(content)).to_pylist()
    except DAMAGED:
        return []  # the bins are then shown without whiskers


def reliability(bins: Sequence[Bin], rows: Sequence[Mapping[str, Any]]) -> list[Reliability]:
    """The bins of the summary with intervals over prompts, from rows of EVAL_SCORE."""
    turned = []
    for row in rows:
        prob = sigmoid(row["score_chosen"] - row["score_rejected"])
        likelier = prob >= 0.5  # as pair_calibration turns them
        target = row["prob_chosen"] if likelier else 1 - row["prob_chosen"]
        turned.append((prob if likelier else 1 - prob, target, row["prompt_id"]))
    return [_with_interval(one, turned) for one in bins]


def _with_interval(one: Bin, turned: Sequence[tuple[float, float, str]]) -> Reliability:
    inside = [(t, prompt) for p, t, prompt in turned if one.low <= p < one.high or (p == one.high == 1.0)]
    found: Estimate | None = (
        clustered_mean([t for t, _ in inside], [prompt for _, prompt in inside]) if inside else None
    )
    low, high = (max(0.0, found.low), min(1.0, found.high)) if found else (one.mean_target, one.mean_target)
    return Reliability(one.mean_prob, one.mean_target, low, high, one.num)
