"""Paired differences: against the published formula, against scipy, and coverage by simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.metrics.differences import bounded_difference, paired_difference
from cai_ray.metrics.intervals import Z95

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS, COUNTS)
def test_matched_outcomes_have_the_interval_of_agresti_and_min(num_same: int, num_up: int, num_down: int) -> None:
    """Their formula from the four cells, half an observation added to each."""
    if not (n := num_same + num_up + num_down):
        return
    found = bounded_difference([0.0] * num_same + [1.0] * num_up + [-1.0] * num_down)
    up, down = (num_up + 0.5) / (n + 2), (num_down + 0.5) / (n + 2)
    spread = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    assert found.value == pytest.approx((num_up - num_down) / n)
    assert found.low == pytest.approx(min(max(up - down - spread, -1), found.value))
    assert found.high == pytest.approx(max(min(up - down + spread, 1), found.value))
    assert found.n == n and -1 <= found.low < found.high <= 1


def test_no_difference_anywhere_still_has_a_width() -> None:
    found = bounded_difference([0.0] * 20)
    assert found.value == 0 and found.low == pytest.approx(-found.high) and 0.05 < found.high < 0.15


def test_values_without_bounds_get_students_t() -> None:
    from scipy.stats import ttest_rel

    rng = random.Random(1)
    before = {str(k): rng.gauss(3, 2) for k in range(25)}
    after = {prompt: value + rng.gauss(0.5, 1) for prompt, value in before.items()}
    found = paired_difference(before, after)
    theirs = ttest_rel([after[prompt] for prompt in before], list(before.values())).confidence_interval()
    assert found is not None and (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_only_prompts_that_both_have_count() -> None:
    found = paired_difference({"a": 1.0, "b": 1.0, "x": 0.0}, {"a": 0.0, "b": 1.0, "y": 1.0})
    assert found is not None and (found.value, found.n) == (-0.5, 2)
    assert paired_difference({"a": 1.0, "x": 1.0}, {"a": 0.0}) is None
    assert paired_difference({}, {}) is None


@pytest.mark.parametrize(("up", "down", "n"), [(0.05, 0.7, 40), (0.02, 0.05, 60), (0.3, 0.3, 20)])
def test_the_interval_covers(up: float, down: float, n: int) -> None:
    """Near 95%, as their paper finds: down to 93% with 20 prompts, more where few differ."""
    rng, hits, num_draws = random.Random(7), 0, 3000
    for _ in range(num_draws):
        found = bounded_difference(rng.choices([1.0, -1.0, 0.0], [up, down, 1 - up - down], k=n))
        hits += found.low <= up - down <= found.high
    assert 0.925 <= hits / num_draws <= 0.99


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_the_value_lies_within(differences: list[float]) -> None:
    found = bounded_difference(differences)
    assert -1 <= found.low <= found.value <= found.high <= 1
    mirrored = bounded_difference([-d for d in differences])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
