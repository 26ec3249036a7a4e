"""Calibration against hand-computed values, scikit-learn and what the maths promises."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from cai_ray.metrics.calibration import Calibration, calibration, pair_calibration

unit = st.floats(0, 1)
pairs = st.lists(st.tuples(unit, unit), min_size=1, max_size=50)


def of(probs: list[float], targets: list[float], num_bins: int = 10) -> Calibration:
    found = calibration(probs, targets, num_bins)
    assert found is not None
    return found


def of_pairs(probs: list[float], targets: list[float]) -> Calibration:
    found = pair_calibration(probs, targets, 5)
    assert found is not None
    return found


def test_hand_computed() -> None:
    found = of([0.1, 0.3, 0.8, 1.0], [0.0, 1.0, 1.0, 1.0], num_bins=2)
    # [0, 0.5): mean 0.2 against 0.5; [0.5, 1]: mean 0.9 against 1. ECE = (2 x 0.3 + 2 x 0.1) / 4.
    assert [(b.low, b.high, b.num) for b in found.bins] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert found.ece == pytest.approx(0.2)
    assert found.brier == pytest.approx((0.01 + 0.49 + 0.04) / 4)
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.3) + math.log(0.8)) / 4)


def test_soft_targets_by_hand() -> None:
    found = of([0.6, 0.6], [0.5, 0.9], num_bins=1)
    assert found.ece == pytest.approx(0.1)
    assert found.brier == pytest.approx((0.01 + 0.09) / 2)
    assert found.log_loss == pytest.approx(-(1.4 * math.log(0.6) + 0.6 * math.log(0.4)) / 2)


def test_agrees_with_scikit_learn() -> None:
    rng = random.Random(0)
    probs = [rng.random() for _ in range(500)]
    happened = [float(rng.random() < p**2) for p in probs]
    found = of(probs, happened)
    mean_target, mean_prob = calibration_curve(happened, probs, n_bins=10)
    assert [b.mean_prob for b in found.bins] == pytest.approx(list(mean_prob))
    assert [b.mean_target for b in found.bins] == pytest.approx(list(mean_target))
    assert found.brier == pytest.approx(brier_score_loss(happened, probs))
    assert found.log_loss == pytest.approx(log_loss(happened, probs))


@given(pairs)
def test_bounds_and_counts(drawn: list[tuple[float, float]]) -> None:
    found = of([p for p, _ in drawn], [t for _, t in drawn])
    assert 0 <= found.ece <= 1 and 0 <= found.brier <= 1
    assert found.ece**2 <= found.brier + 1e-9
    assert sum(b.num for b in found.bins) == found.num == len(drawn)
    assert all(b.low <= b.mean_prob <= b.high + 1e-12 for b in found.bins)


@given(st.lists(unit, min_size=1, max_size=30))
def test_saying_the_target_is_perfect(probs: list[float]) -> None:
    assert of(probs, probs).ece == of(probs, probs).brier == 0


@given(pairs)
def test_which_answer_of_a_pair_comes_first_does_not_matter(drawn: list[tuple[float, float]]) -> None:
    there = of_pairs([p for p, _ in drawn], [t for _, t in drawn])
    back = of_pairs([1 - p for p, _ in drawn], [1 - t for _, t in drawn])
    assert there.brier == pytest.approx(back.brier)
    assert there.log_loss == pytest.approx(back.log_loss, rel=1e-3, abs=1e-3)
    assert there.brier == pytest.approx(of([p for p, _ in drawn], [t for _, t in drawn]).brier)


def test_a_pair_is_turned_to_its_likelier_side() -> None:
    # Always sure, half the time wrong: with the sides mixed, the unturned numbers would look perfect.
    found = of_pairs([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    assert found.ece == 0.5 and found.bins[0].low == 0.9


def test_nothing_and_nonsense() -> None:
    assert calibration([], []) is None
    for probs, targets, message in (
        ([1.2], [1.0], "probability 1.2"),
        ([0.5], [math.nan], "target nan"),
        ([0.5], [], "must come in pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            calibration(probs, targets)
    with pytest.raises(ValueError, match="num_bins=0"):
        calibration([0.5], [1.0], 0)
