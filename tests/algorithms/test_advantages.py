"""GAE, RLOO, GRPO and whitening against loops over plain floats, and what their maths promises."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.advantages import (
    AdvantageConfig,
    advantages_of,
    explained_variance,
    gae,
    grpo,
    moments,
    rloo,
    whiten,
)
from tests.answer_batches import kept, lengths, mask_of, noise, seeds

shares = st.floats(0, 1)
groups_of = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def plain_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The double sum as it is written in the paper, eq. 16, for one answer."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    num = len(rewards)
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(num - t)) for t in range(num)]


@given(answers=lengths, seed=seeds, gamma=st.floats(0.01, 1), lam=shares)
def test_gae_is_the_papers_sum_of_every_answer_alone(answers: list[int], seed: int, gamma: float, lam: float) -> None:
    mask = mask_of(answers)
    rewards, values = noise(mask, seed), noise(mask, seed + 1)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i, (r, v) in enumerate(zip(kept(rewards, mask), kept(values, mask), strict=True)):
        expected = plain_gae(r, v, gamma, lam)
        assert advantages[i, : len(r)].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[i, : len(r)].tolist() == pytest.approx([a + x for a, x in zip(expected, v, strict=True)])
    assert not advantages[~mask].any() and not returns[~mask].any()


@given(answers=lengths, seed=seeds, gamma=st.floats(0.01, 1))
def test_with_lambda_one_it_is_returns_minus_values_and_with_zero_one_step(
    answers: list[int], seed: int, gamma: float
) -> None:
    mask = mask_of(answers)
    rewards, values = noise(mask, seed), noise(mask, seed + 1)
    monte_carlo, _ = gae(rewards, values, mask, gamma=gamma, lam=1.0)
    one_step, _ = gae(rewards, values, mask, gamma=gamma, lam=0.0)
    for i, (r, v) in enumerate(zip(kept(rewards, mask), kept(values, mask), strict=True)):
        for t in range(len(r)):
            discounted = sum(gamma**k * x for k, x in enumerate(r[t:]))
            assert monte_carlo[i, t].item() == pytest.approx(discounted - v[t], abs=1e-12)
            after = v[t + 1] if t + 1 < len(v) else 0.0
            assert one_step[i, t].item() == pytest.approx(r[t] + gamma * after - v[t], abs=1e-12)


def test_gae_keeps_no_gradient() -> None:
    mask = mask_of([2], 0)
    values = torch.ones(1, 2, requires_grad=True)
    advantages, returns = gae(torch.ones(1, 2), values, mask, gamma=1.0, lam=1.0)
    assert not advantages.requires_grad and not returns.requires_grad
    assert values.tolist() == [[1.0, 1.0]]


@given(groups=groups_of, seed=seeds, order=st.randoms())
def test_group_advantages_are_those_of_each_group_alone_in_any_order(
    groups: list[int], seed: int, order: object
) -> None:
    mask = torch.ones(len(groups), 1, dtype=torch.bool)
    rewards = noise(mask, seed)[:, 0]
    left_out, scaled, centred = [], [], []
    for r, g in zip(rewards.tolist(), groups, strict=True):
        mates = [x for x, h in zip(rewards.tolist(), groups, strict=True) if h == g]
        others = (sum(mates) - r) / (len(mates) - 1) if len(mates) > 1 else r
        left_out.append(r - others)
        centred.append(r - statistics.fmean(mates))
        scaled.append(centred[-1] / max(statistics.pstdev(mates), 1e-4))
    names = torch.tensor(groups) * 10 - 5
    assert rloo(rewards, names).tolist() == pytest.approx(left_out, abs=1e-9)
    assert grpo(rewards, names).tolist() == pytest.approx(scaled, abs=1e-6)
    assert grpo(rewards, names, scale=False).tolist() == pytest.approx(centred, abs=1e-9)
    shuffled = list(range(len(groups)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for of in (rloo, grpo):
        assert torch.allclose(of(rewards[shuffled], names[shuffled]), of(rewards, names)[shuffled], atol=1e-9)


def test_groups_without_a_difference_teach_nothing() -> None:
    rewards, groups = torch.tensor([0.1, 0.1, 0.1, 5.0]), torch.tensor([7, 7, 7, 8])
    assert grpo(rewards, groups).abs().max() < 1e-3
    assert rloo(rewards, groups).abs().max() < 1e-6
    with pytest.raises(ValueError, match="num_sequences"):
        rloo(rewards, groups[:2])


@given(answers=st.lists(st.integers(1, 7), min_size=2, max_size=6), seed=seeds, scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask(
    answers: list[int], seed: int, scale: float
) -> None:
    mask = mask_of(answers)
    values = noise(mask, seed, scale) + 3 * scale
    whitened = whiten(values, mask, moments(values, mask))
    flat = [x for row in kept(whitened, mask) for x in row]
    raw = [x for row in kept(values, mask) for x in row]
    assert statistics.fmean(flat) == pytest.approx(0, abs=1e-8)
    if statistics.pstdev(raw) > 1e-4:
        assert statistics.pstdev(flat) == pytest.approx(1, abs=1e-6)
    assert not whitened[~mask].any()


@given(answers=lengths, seed=seeds, cut=st.integers(0, 6))
def test_workers_that_add_their_moments_whiten_like_one(answers: list[int], seed: int, cut: int) -> None:
    mask = mask_of(answers)
    values = noise(mask, seed)
    total = moments(values[:cut], mask[:cut]) + moments(values[cut:], mask[cut:])
    parts = torch.cat([whiten(values[:cut], mask[:cut], total), whiten(values[cut:], mask[cut:], total)])
    assert torch.allclose(parts, whiten(values, mask, moments(values, mask)), atol=1e-9)


def test_equal_values_whiten_to_zero() -> None:
    mask = mask_of([3, 2])
    values = torch.full(mask.shape, 1234.5)
    assert whiten(values, mask, moments(values, mask)).abs().max() == 0


def test_explained_variance() -> None:
    mask = mask_of([4, 2])
    returns, values = noise(mask, 1), noise(mask, 2)
    of = [x for row in kept(returns, mask) for x in row]
    left = [x for row in kept(returns - values, mask) for x in row]
    expected = 1 - statistics.pvariance(left) / statistics.pvariance(of)
    assert explained_variance(moments(returns, mask), moments(returns - values, mask)) == pytest.approx(expected)
    assert explained_variance(moments(returns, mask), moments(returns - returns, mask)) == 1
    flat = moments(torch.ones(mask.shape), mask)
    assert explained_variance(flat, moments(values, mask)) == 0


def test_each_kind_of_advantage_from_the_same_rewards() -> None:
    mask = mask_of([2, 1])
    rewards = torch.tensor([[1.0, 2.0, 9.0, 9.0], [5.0, 9.0, 9.0, 9.0]])
    groups, values = torch.tensor([0, 0]), torch.zeros(mask.shape)
    expected = {
        "gae": [[3.0, 2.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]],
        "rloo": [[-2.0, -2.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]],
        "grpo": [[-1.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]],
    }
    for kind, rows in expected.items():
        config = AdvantageConfig(kind=kind, lam=1.0)  # type: ignore[arg-type]
        advantages, returns = advantages_of(config, rewards, mask, values=values, groups=groups)
        assert advantages.tolist() == rows
        assert (returns is None) == (kind != "gae")


def test_what_a_kind_needs_is_asked_for() -> None:
    mask = mask_of([1])
    with pytest.raises(ValueError, match="needs values"):
        advantages_of(AdvantageConfig(), torch.zeros(mask.shape), mask)
    with pytest.raises(ValueError, match='"grpo" needs groups'):
        advantages_of(AdvantageConfig(kind="grpo"), torch.zeros(mask.shape), mask)
