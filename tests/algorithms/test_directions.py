"""Directions: what is taken out is gone, nothing else is touched, and sums do not care how they were split."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cai_ray.algorithms.directions import (
    Candidate,
    Sums,
    behind_gain,
    candidate_layers,
    chosen,
    difference_of_means,
    kl,
    merged,
    orthogonalised,
    refusal_score,
    sheared,
    unit,
    without,
)

SEEDS = range(20)


def logs(rng: np.random.Generator, size: int) -> np.ndarray:
    raw = rng.normal(size=size)
    return raw - np.log(np.exp(raw).sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_of_parts_are_the_sums_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    all_of = (rng.normal(size=(50, 3, 7)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    cuts = sorted(rng.integers(0, 51, size=4))
    parts = [Sums.of(part) for part in np.split(all_of, cuts)]
    rng.shuffle(parts)
    found = merged(parts)
    assert found.num == 50
    np.testing.assert_allclose(found.mean, all_of.astype(np.float64).mean(0), rtol=1e-9, atol=1e-9)


def test_sums_are_exact_where_float32_would_lose_the_difference() -> None:
    """100,000 numbers near 1000: float32 sums would be off by far more than the difference of the means."""
    many = np.full((100_000, 1), 1000.0, np.float32)
    other = np.nextafter(many, np.float32(2000))
    assert difference_of_means(Sums.of(other), Sums.of(many))[0] == pytest.approx(float(other[0, 0]) - 1000.0)


def test_nothing_has_no_mean_and_no_direction() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        Sums(np.zeros(3), 0).mean  # noqa: B018
    for vector in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="no direction"):
            unit(vector)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_projection_takes_out_the_direction_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, x = unit(rng.normal(size=16)), rng.normal(size=(4, 5, 16))
    bare = without(x, r)
    np.testing.assert_allclose(bare @ r, 0, atol=1e-12)
    np.testing.assert_allclose(without(bare, r), bare, atol=1e-12)
    other = unit(without(rng.normal(size=16), r))
    np.testing.assert_allclose(bare @ other, x @ other, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_orthogonalised_matrix_writes_what_a_projection_leaves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, weight, x = unit(rng.normal(size=16)), rng.normal(size=(16, 9)), rng.normal(size=9)
    np.testing.assert_allclose(orthogonalised(weight, r) @ x, without(weight @ x, r), atol=1e-12)


def test_torch_tensors_give_the_same() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    r, weight = unit(rng.normal(size=16)), rng.normal(size=(16, 9))
    ours = orthogonalised(torch.tensor(weight), torch.tensor(r))
    np.testing.assert_allclose(ours.numpy(), orthogonalised(weight, r), atol=1e-12)
    np.testing.assert_allclose(
        without(torch.tensor(weight.T), torch.tensor(r)).numpy(), without(weight.T, r), atol=1e-12
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_behind_a_gain_the_direction_is_gone_and_the_rest_is_only_longer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, gain, weight, x = unit(rng.normal(size=16)), rng.normal(size=16), rng.normal(size=(16, 9)), rng.normal(size=9)
    u, v = behind_gain(r, gain)

    def written(out: np.ndarray) -> np.ndarray:
        return gain * out / np.sqrt((out**2).mean())

    exact, ours = without(written(weight @ x), r), written(sheared(weight, u, v) @ x)
    np.testing.assert_allclose(ours @ r, 0, atol=1e-9)
    ratio = np.linalg.norm(ours) / np.linalg.norm(exact)
    np.testing.assert_allclose(ours, ratio * exact, rtol=1e-6, atol=1e-9)


def test_a_gain_of_zero_is_left_alone_and_one_that_is_zero_everywhere_told() -> None:
    r = unit([1.0, 1.0, 0.0])
    u, v = behind_gain(r, [0.0, 2.0, 1.0])
    assert u[0] == 0 and v @ u == pytest.approx(1)
    with pytest.raises(ValueError, match="nothing to take out"):
        behind_gain([1.0, 0.0], [0.0, 1.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_refusal_score_is_the_log_odds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = logs(rng, 30)
    prob = np.exp(found[[3, 7]]).sum()
    assert refusal_score(found, [3, 7]) == pytest.approx(math.log(prob / (1 - prob)))


def test_a_certain_token_scores_infinity() -> None:
    certain = np.array([0.0, -np.inf])
    assert refusal_score(certain, [0]) == math.inf and refusal_score(certain, [1]) == -math.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_is_zero_only_for_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = logs(rng, 12), logs(rng, 12)
    assert kl(one, one) == 0.0 and kl(one, other) > 0
    assert kl(np.array([0.0, -np.inf]), np.array([0.0, -np.inf])) == 0.0


def test_layers_are_every_step_and_never_the_last_fifth() -> None:
    assert candidate_layers(30) == list(range(1, 24))
    assert candidate_layers(30, 8) == [1, 9, 17]
    assert candidate_layers(4) == [1, 2]
    assert candidate_layers(2) == candidate_layers(3) == [1]
    assert candidate_layers(1) == []


def test_the_choice_refuses_least_within_the_limit() -> None:
    rude = Candidate(3, -1, -9.0, 2.0, kl=0.5)
    mute = Candidate(4, -1, -8.0, -1.0, kl=0.01)
    best = Candidate(5, -2, -4.0, 1.0, kl=0.09)
    next_best = Candidate(2, -1, -3.0, 1.0, kl=0.0)
    assert chosen([next_best, rude, mute, best], 0.1) == best
    assert chosen([next_best, rude, mute, best], 1.0) == rude
    with pytest.raises(ValueError, match=r"max_kl=0.001 nats \(the least: 0.01\)"):
        chosen([rude, mute], 0.001)
    with pytest.raises(ValueError, match="there is no direction to find"):
        chosen([mute], 0.1)
