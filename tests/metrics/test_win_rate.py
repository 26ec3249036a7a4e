"""Win rates: the mean over prompts, and an interval that always has a width."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.metrics.win_rate import win_rate

PROB = st.floats(0, 1)


@given(st.lists(st.tuples(PROB, st.integers(0, 5)), min_size=1, max_size=40))
def test_the_rate_is_the_mean_of_prompts_within_its_interval(games: list[tuple[float, int]]) -> None:
    probs, prompts = [prob for prob, _ in games], [str(prompt) for _, prompt in games]
    found = win_rate(probs, prompts)
    means = [fmean(p for p, own in zip(probs, prompts, strict=True) if own == prompt) for prompt in sorted({*prompts})]
    assert found is not None and found.rate.value == pytest.approx(fmean(means))
    assert 0 <= found.rate.low <= found.rate.value <= found.rate.high <= 1 and found.rate.low < found.rate.high
    assert (found.num_games, found.rate.n) == (len(games), len(means))
    if len(means) > 1:
        assert found.standard_error == pytest.approx(stdev(means) / math.sqrt(len(means)))


def test_one_sided_games_still_leave_room() -> None:
    found = win_rate([1.0] * 20, [str(k) for k in range(20)])
    assert found is not None and found.rate.high == 1.0 and 0.7 < found.rate.low < 1.0 and found.flip_rate is None


def test_only_games_in_both_orders_count_for_the_flip_rate() -> None:
    found = win_rate([0.5, 1.0, 0.0], ["a", "b", "c"], [True, False, None])
    assert found is not None and found.flip_rate == 0.5


def test_nothing_played() -> None:
    assert win_rate([], []) is None


def test_the_interval_covers() -> None:
    """95% intervals hold the truth about 95 times in 100."""
    rng = random.Random(4)
    hits = 0
    for _ in range(400):
        found = win_rate([float(rng.random() < 0.8) for _ in range(40)], [str(k) for k in range(40)])
        hits += found is not None and found.rate.low <= 0.8 <= found.rate.high
    assert 0.92 <= hits / 400 <= 0.99
