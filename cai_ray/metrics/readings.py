"""From the feedback model's readings of a pair to one soft label, and how far the readings agree.

A reading is the answer to one question: one principle, one order of the two answers, with chain of thought one
sample of reasoning. Its probability always speaks of the stored order: P(the stored A is better).

Where things happen, in this order:
1. each reading's two log-probabilities are normalised to P(A) (paper, section 4.1);
2. readings are averaged as probabilities, all with the same weight: over samples, orders and principles;
3. that average, once, is clamped. It is the training target that the paper keeps within 40-60% under chain of
   thought, because reasoning states its verdict and leaves next to no doubt (section 4.1). Clamping each reading
   would turn every pair on which two sure readings differ into an exact tie.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

Bounds = tuple[float, float]  # 0 <= low < high <= 1
TIE_TOLERANCE = 1e-9  # what rounding may leave of an exact 0.5


class Reading(NamedTuple):
    """What the feedback model said about one pair under one principle in one order."""

    principle_id: str
    swapped: bool  # the stored B was shown as (A)
    prob_a: float  # [0, 1], of the stored A
    judge: str | None = None  # of a panel


def readings_of(comparisons: Iterable[Mapping[str, Any]]) -> list[Reading]:
    """The `comparisons` of a Preference row, in their order."""
    return [Reading(c["principle_id"], c["swapped"], c["prob_a"], c.get("judge")) for c in comparisons]


def mean_prob_a(readings: Sequence[Reading]) -> float:
    """P(the stored A is better) in [0, 1]: the plain mean. Every question has as many readings as any other, so this
    is also the mean over principles of the mean over orders of the mean over samples."""
    return fmean(reading.prob_a for reading in readings)


def clamped(prob: float, bounds: Bounds | None) -> float:
    """`prob` moved into [low, high]; unchanged without bounds."""
    return prob if bounds is None else min(max(prob, bounds[0]), bounds[1])


def is_tie(prob: float, margin: float) -> bool:
    """Neither answer is favoured by more than `margin` in [0, 0.5)."""
    return abs(prob - 0.5) <= margin + TIE_TOLERANCE


def flip_rate(readings: Sequence[Reading]) -> float | None:
    """Of the questions put in both orders, the share in [0, 1] where the two orders prefer different answers.

    With several samples per question the k-th of one order meets the k-th of the other. A probability of exactly 0.5
    prefers neither answer, which is no flip. None when nothing was asked in both orders.
    """
    by_order: dict[tuple[str | None, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for reading in readings:
        by_order[reading.judge, reading.principle_id][reading.swapped].append(reading.prob_a)
    both = [pair for stored, swapped in by_order.values() for pair in zip(stored, swapped, strict=False)]
    return fmean((one - 0.5) * (other - 0.5) < 0 for one, other in both) if both else None


def prob_a_by_principle(readings: Sequence[Reading]) -> dict[str, float]:
    """Each principle's own label, P(the stored A is better), in the order in which they were drawn."""
    grouped: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        grouped[reading.principle_id].append(reading)
    return {principle_id: mean_prob_a(own) for principle_id, own in grouped.items()}


def prob_a_by_judge(readings: Sequence[Reading]) -> dict[str, float]:
    """Each judge's own label, P(the stored A is better), in the panel's order; empty without a panel."""
    grouped: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        if reading.judge is not None:
            grouped[reading.judge].append(reading)
    return {judge: mean_prob_a(own) for judge, own in grouped.items()}


def principles_agree(readings: Sequence[Reading]) -> bool | None:
    """Whether all principles favour the same answer; None with fewer than two principles."""
    probs = prob_a_by_principle(readings)
    return None if len(probs) < 2 else len({math.copysign(1, prob - 0.5) for prob in probs.values()}) == 1


def prob_of_first_shown(readings: Sequence[Reading]) -> float:
    """Mean P(the answer shown as (A) is better). Above 0.5 over many pairs: a bias toward the first place."""
    return fmean(1 - reading.prob_a if reading.swapped else reading.prob_a for reading in readings)


def extremity(prob: float) -> float:
    """How far a label is from doubt: 0 at probability 0.5, 1 at 0 or 1."""
    return 2 * abs(prob - 0.5)
