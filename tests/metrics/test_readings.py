"""From readings to a label, against values computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.metrics.readings import (
    Reading,
    clamped,
    extremity,
    flip_rate,
    is_tie,
    mean_prob_a,
    principles_agree,
    prob_a_by_principle,
    prob_of_first_shown,
    readings_of,
)

# Two principles in both orders: kind says A by 0.9 and 0.6, legal says A by 0.7 and then B by 0.8.
READINGS = [
    Reading("kind", False, 0.9),
    Reading("legal", False, 0.7),
    Reading("kind", True, 0.6),
    Reading("legal", True, 0.2),
]


def test_orders_are_averaged_as_probabilities() -> None:
    assert mean_prob_a([r for r in READINGS if r.principle_id == "kind"]) == pytest.approx((0.9 + 0.6) / 2)
    assert mean_prob_a([r for r in READINGS if r.principle_id == "legal"]) == pytest.approx((0.7 + 0.2) / 2)


def test_principles_are_averaged_as_probabilities() -> None:
    assert mean_prob_a(READINGS) == pytest.approx((0.75 + 0.45) / 2)
    assert prob_a_by_principle(READINGS) == pytest.approx({"kind": 0.75, "legal": 0.45})


def test_a_flip_is_two_orders_that_prefer_different_answers() -> None:
    assert flip_rate(READINGS) == 0.5  # legal flips, kind does not
    assert flip_rate(READINGS[:2]) is None
    assert flip_rate([Reading("kind", False, 0.5), Reading("kind", True, 0.1)]) == 0.0


def test_samples_meet_the_sample_of_the_same_number() -> None:
    stored = [Reading("kind", False, prob) for prob in (0.9, 0.9, 0.1, 0.9)]
    swapped = [Reading("kind", True, prob) for prob in (0.8, 0.3, 0.2, 0.7)]
    assert flip_rate(stored + swapped) == 1 / 4
    assert mean_prob_a(stored + swapped) == pytest.approx((2.8 + 2.0) / 8)


def test_the_average_is_clamped_and_not_each_reading() -> None:
    sure = [Reading("kind", False, 0.99), Reading("kind", True, 0.05)]
    assert clamped(mean_prob_a(sure), (0.4, 0.6)) == pytest.approx(
        0.52
    )  # each on its own would give 0.6 and 0.4: a tie
    assert clamped(0.97, (0.4, 0.6)) == 0.6
    assert clamped(0.03, (0.4, 0.6)) == 0.4
    assert clamped(0.97, (0.2, 0.8)) == 0.8
    assert clamped(0.97, None) == 0.97


@pytest.mark.parametrize(
    ("prob", "margin", "tie"),
    [(0.5, 0.0, True), (0.5 + 1e-12, 0.0, True), (0.501, 0.0, False), (0.45, 0.05, True), (0.56, 0.05, False)],
)
def test_ties(prob: float, margin: float, tie: bool) -> None:
    assert is_tie(prob, margin) is tie


def test_agreement_is_between_principles() -> None:
    assert principles_agree(READINGS) is False
    assert principles_agree([Reading("kind", False, 0.9), Reading("legal", False, 0.6)]) is True
    assert principles_agree([Reading("kind", False, 0.9), Reading("kind", True, 0.1)]) is None


def test_what_is_shown_first() -> None:
    always_first = [Reading("kind", False, 0.8), Reading("kind", True, 0.2)]
    assert prob_of_first_shown(always_first) == pytest.approx(0.8)
    fair = [Reading("kind", False, 0.8), Reading("kind", True, 0.8)]
    assert prob_of_first_shown(fair) == pytest.approx(0.5)


def test_extremity() -> None:
    assert [extremity(prob) for prob in (0.5, 1.0, 0.0, 0.75)] == [0.0, 1.0, 1.0, 0.5]


def test_rows_are_read_in_their_order() -> None:
    rows = [{**r._asdict(), "logprob_a": -1.0, "logprob_b": -2.0, "rationale": None} for r in READINGS]
    assert readings_of(rows) == READINGS


readings = st.lists(st.builds(Reading, st.sampled_from(["a", "b"]), st.booleans(), st.floats(0, 1)), min_size=1)


@given(readings)
def test_exchanging_the_answers_exchanges_the_label(found: list[Reading]) -> None:
    other = [Reading(r.principle_id, not r.swapped, 1 - r.prob_a) for r in found]
    assert mean_prob_a(found) + mean_prob_a(other) == pytest.approx(1.0)
    assert prob_of_first_shown(found) == pytest.approx(prob_of_first_shown(other))
    assert is_tie(mean_prob_a(found), 0.1) == is_tie(mean_prob_a(other), 0.1)
    rate = flip_rate(found)
    assert rate is None or 0.0 <= rate <= 1.0


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0.5, 1))
def test_clamping_keeps_the_preferred_answer_or_makes_a_tie(prob: float, low: float, high: float) -> None:
    bounded = clamped(prob, (low, high))
    assert low <= bounded <= high
    assert (bounded - 0.5) * (prob - 0.5) >= 0
