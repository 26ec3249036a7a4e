"""A head without a bias gets a mean score of zero, and rankings stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.algorithms.centring import centred_head


def states(seed: int, num: int, hidden: int, constant: bool) -> np.ndarray:
    """Random final states around a common mean; with `constant`, one combination of entries is always 1."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(num, hidden)) + 2 * rng.normal(size=hidden)
    if constant:
        found[:, 0] = 1 - found[:, 1:].sum(axis=1)
    return found


@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(2, 40), st.booleans())
@settings(max_examples=60)
def test_the_mean_score_is_zero(seed: int, num: int, hidden: int, constant: bool) -> None:
    h = states(seed, num, hidden, constant)
    weight = np.random.default_rng(seed + 1).normal(size=hidden)
    centred = centred_head(weight, h)
    scores = h @ weight
    assert centred.offset == pytest.approx(scores.mean())
    assert (h @ centred.weight).mean() == pytest.approx(0, abs=1e-9 * (1 + abs(scores).max()))
    assert (h @ centred.weight - scores).std() == pytest.approx(centred.noise_std, rel=1e-6, abs=1e-9)


def test_a_constant_direction_is_found_and_then_nothing_but_the_mean_changes() -> None:
    h = states(3, 400, 8, constant=True)
    weight = np.arange(8.0)
    scores = h @ weight
    centred = centred_head(weight, h)
    assert h @ centred.weight == pytest.approx(scores - scores.mean(), abs=0.02 * scores.std())
    assert centred.noise_std < 0.01 * scores.std()


def test_a_head_that_is_centred_already_stays() -> None:
    h = np.array([[1.0, 1.0], [1.0, -1.0]])
    assert centred_head(np.array([0.0, 2.0]), h).weight == pytest.approx([0, 2])


def test_one_state() -> None:
    centred = centred_head(np.array([1.0, 2.0]), np.array([[3.0, 1.0]]))
    assert centred.offset == 5 and centred.weight @ [3, 1] == pytest.approx(0, abs=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        centred_head(np.ones(2), np.ones((0, 2)))
    with pytest.raises(ValueError, match="mean state is zero"):
        centred_head(np.ones(2), np.array([[1.0, -1.0], [-1.0, 1.0]]))
