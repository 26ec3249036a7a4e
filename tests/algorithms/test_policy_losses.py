"""PPO's losses against loops over plain floats; padding, micro-batches and workers never change them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.policy_losses import (
    LossUnit,
    PolicyLossConfig,
    ValueLossConfig,
    loss_weights,
    policy_loss,
    pretraining_loss,
    total_loss,
    truncated_importance,
    value_loss,
    weighted_mean,
)
from cai_ray.algorithms.token_stats import merge, read
from tests.answer_batches import kept, lengths, mask_of, noise, seeds

units = st.sampled_from(["token", "sequence"])


def plain_mean(rows: list[list[float]], unit: LossUnit) -> float:
    if unit == "token":
        return sum(x for row in rows for x in row) / sum(len(row) for row in rows)
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def plain_mean_of(mask: torch.Tensor, unit: LossUnit, each: Callable[..., float], *values: torch.Tensor) -> float:
    rows = zip(*(kept(x.detach(), mask) for x in values), strict=True)
    return plain_mean([[each(*xs) for xs in zip(*row, strict=True)] for row in rows], unit)


def total_of(answers: list[int], unit: LossUnit) -> int:
    return sum(answers) if unit == "token" else len(answers)


@given(
    answers=lengths,
    seed=seeds,
    unit=units,
    high=st.sampled_from([None, 0.4]),
    cap=st.sampled_from([None, 1.5]),
    dual=st.sampled_from([None, 1.3]),
)
def test_policy_loss_is_the_papers_formula_token_by_token(
    answers: list[int], seed: int, unit: LossUnit, high: float | None, cap: float | None, dual: float | None
) -> None:
    mask = mask_of(answers)
    new, old, advantages, sampler = (noise(mask, seed + k, 0.5) for k in range(4))
    new.requires_grad_()
    importance = torch.full_like(old, torch.nan)
    if cap is not None:
        importance, _ = truncated_importance(old, sampler, mask, cap)
    weights = loss_weights(mask, unit, total_of(answers, unit)).double()
    config = PolicyLossConfig(clip_range_high=high, dual_clip=dual)
    loss, stats = policy_loss(new, old, advantages, weights, config, None if cap is None else importance)

    def each(n: float, o: float, a: float, w: float) -> float:
        ratio = math.exp(n - o)
        gain = a if cap is None else a * min(math.exp(o - w), cap)
        clipped = min(ratio * gain, min(max(ratio, 0.8), 1 + (high or 0.2)) * gain)
        return -(clipped if dual is None or gain > 0 else max(clipped, dual * gain))

    assert loss.item() == pytest.approx(plain_mean_of(mask, unit, each, new, old, advantages, sampler), abs=1e-6)
    loss.backward()
    assert new.grad is not None and new.grad.isfinite().all() and not new.grad[~mask].any()
    measured = read(stats)
    ratios = [math.exp(n - o) for a, b in zip(kept(new, mask), kept(old, mask), strict=True) for n, o in zip(a, b)]  # noqa: B905
    assert measured["ratio_min"] == pytest.approx(min(ratios)) and measured["ratio_max"] == pytest.approx(max(ratios))
    assert measured["approx_kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / len(ratios))
    assert measured["clip_fraction"] == pytest.approx(float((new.grad[mask] == 0).double().mean()))


@given(answers=lengths, seed=seeds, unit=units, cut=st.integers(1, 5), padding=st.integers(0, 3))
def test_micro_batches_on_workers_add_up_to_the_whole(
    answers: list[int], seed: int, unit: LossUnit, cut: int, padding: int
) -> None:
    """However a minibatch is spread, and however wide its padding: the same loss, gradient and statistics."""
    mask = mask_of(answers)
    new, old, advantages = (noise(mask, seed + k, 0.5) for k in range(3))
    total = total_of(answers, unit)

    def loss_of(rows: slice, width: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        part, own = mask[rows, :width], new[rows, :width].clone().requires_grad_()
        weights = loss_weights(part, unit, total).double()
        loss, stats = policy_loss(own, old[rows, :width], advantages[rows, :width], weights, PolicyLossConfig())
        (gradient,) = torch.autograd.grad(loss, own)
        return loss, stats, gradient

    whole, whole_stats, whole_gradient = loss_of(slice(None), mask.shape[1])
    parts = [
        loss_of(rows, max(answers[rows]) + min(padding, 2))
        for rows in (slice(0, cut), slice(cut, None))
        if answers[rows]
    ]
    assert sum(loss.item() for loss, _, _ in parts) == pytest.approx(whole.item(), abs=1e-12)
    spread = read(merge(stats for _, stats, _ in parts))
    assert spread == pytest.approx(read(whole_stats))
    together = torch.cat([gradient.flatten() for _, _, gradient in parts])
    assert together[together != 0].tolist() == pytest.approx(whole_gradient[whole_gradient != 0].tolist())


def test_on_policy_the_gradient_is_the_plain_policy_gradient() -> None:
    mask = mask_of([3, 1])
    old, advantages = noise(mask, 1), noise(mask, 2)
    new = old.clone().requires_grad_()
    policy_loss(new, old, advantages, loss_weights(mask, "token", 4).double(), PolicyLossConfig()).loss.backward()
    assert new.grad is not None and torch.allclose(new.grad[mask], -advantages[mask] / 4)


def test_a_blown_up_ratio_is_large_and_finite() -> None:
    new = torch.tensor([0.0, -900.0], requires_grad=True)
    loss, stats = policy_loss(new, -new.detach() - 900, -torch.ones(2), torch.ones(2), PolicyLossConfig())
    loss.backward()
    assert loss.isfinite() and new.grad is not None and new.grad.isfinite().all()
    assert read(stats)["ratio_max"] > 1e8 and read(stats)["ratio_min"] < 1e-8


def test_one_token_of_any_ratio_has_a_bounded_loss_and_no_gradient() -> None:
    """An update with one such token was thrown away whole once: 7.7e5-fold, with a negative advantage."""
    new = torch.tensor([0.0, 0.1], requires_grad=True)
    old = torch.tensor([-math.log(7.7e5), 0.0])
    bounded, stats = policy_loss(new, old, -torch.ones(2), torch.ones(2), PolicyLossConfig())
    assert bounded.item() == pytest.approx(3 + math.exp(0.1)) and read(stats)["dual_clip_fraction"] == 0.5
    bounded.backward()
    assert new.grad is not None and new.grad[0] == 0 and new.grad[1] > 0
    free, _ = policy_loss(new, old, -torch.ones(2), torch.ones(2), PolicyLossConfig(dual_clip=None))
    assert free.item() > 7e5


@pytest.mark.parametrize("gain", [-1.0, 1.0])
@pytest.mark.parametrize("moved", [-math.log(101), math.log(101)])
def test_an_outlier_adds_nothing_and_is_counted(gain: float, moved: float) -> None:
    new = torch.tensor([moved, 0.1, 0.0], requires_grad=True)
    config = PolicyLossConfig(dual_clip=None, clip_range=0.9)
    loss, stats = policy_loss(new, torch.zeros(3), torch.full((3,), gain), torch.ones(3), config, max_ratio=100)
    loss.backward()
    assert loss.item() == pytest.approx(-gain * (math.exp(0.1) + 1)) and new.grad is not None and new.grad[0] == 0
    measured = read(stats)
    assert measured["outliers"] == pytest.approx(1 / 3) and measured["approx_kl"] < 0.01
    assert max(measured["ratio_max"], 1 / measured["ratio_min"]) == pytest.approx(101)


def test_a_log_probability_that_is_no_number_reaches_the_loss() -> None:
    loss, _ = policy_loss(torch.tensor([torch.nan]), torch.zeros(1), torch.ones(1), torch.ones(1), PolicyLossConfig())
    assert loss.isnan()


@given(answers=lengths, seed=seeds, clip=st.sampled_from([None, 0.2, 1.0]))
def test_value_loss_takes_the_worse_of_free_and_clipped(answers: list[int], seed: int, clip: float | None) -> None:
    mask = mask_of(answers)
    values, old, returns = (noise(mask, seed + k) for k in range(3))
    values.requires_grad_()
    weights = loss_weights(mask, "token", sum(answers)).double()
    loss, stats = value_loss(values, old, returns, weights, ValueLossConfig(clip_range=clip))

    def each(v: float, o: float, r: float) -> float:
        near = v if clip is None else o + min(max(v - o, -clip), clip)
        return max((v - r) ** 2, (near - r) ** 2) / 2

    assert loss.item() == pytest.approx(plain_mean_of(mask, "token", each, values, old, returns), rel=1e-5)
    loss.backward()
    assert values.grad is not None and values.grad.isfinite().all() and not values.grad[~mask].any()
    measured = read(stats)
    assert measured["value_error"] == pytest.approx(
        plain_mean_of(mask, "token", lambda v, r: (v - r) ** 2, values, returns)
    )
    assert (measured["value_clip_fraction"] == 0) or clip is not None


@given(answers=lengths, seed=seeds, cap=st.sampled_from([1.0, 2.0]))
def test_importance_weights_are_capped_ratios_without_gradient(answers: list[int], seed: int, cap: float) -> None:
    mask = mask_of(answers)
    old, sampler = noise(mask, seed).requires_grad_(), noise(mask, seed + 1)
    weights, stats = truncated_importance(old, sampler, mask, cap)
    pairs = [
        (o, s)
        for a, b in zip(kept(old.detach(), mask), kept(sampler, mask), strict=True)
        for o, s in zip(a, b)  # noqa: B905
    ]
    assert weights[mask].tolist() == pytest.approx([min(math.exp(o - s), cap) for o, s in pairs])
    assert not weights[~mask].any() and not weights.requires_grad
    measured, gaps = read(stats), [abs(o - s) for o, s in pairs]
    assert measured["sampler_gap"] == pytest.approx(sum(gaps) / len(gaps))
    assert measured["sampler_gap_max"] == pytest.approx(max(gaps))
    assert measured["importance_capped"] == pytest.approx(sum(o - s > math.log(cap) for o, s in pairs) / len(pairs))
    assert measured["sampler_kl"] >= 0


def test_the_same_log_probabilities_have_weight_one() -> None:
    mask = mask_of([2, 3])
    old = noise(mask, 0)
    weights, stats = truncated_importance(old, old, mask, 2.0)
    assert weights[mask].tolist() == [1.0] * 5 and read(stats)["sampler_gap_max"] == 0


@given(answers=lengths, unit=units)
def test_weights_of_a_minibatch_sum_to_one(answers: list[int], unit: LossUnit) -> None:
    mask = mask_of(answers)
    weights = loss_weights(mask, unit, total_of(answers, unit))
    assert weights.sum().item() == pytest.approx(1, abs=1e-6) and not weights[~mask].any()
    per_answer = weights.sum(1).tolist()
    expected = [a / sum(answers) for a in answers] if unit == "token" else [1 / len(answers)] * len(answers)
    assert per_answer == pytest.approx(expected)


def test_a_dummy_row_of_an_idle_worker_weighs_nothing() -> None:
    mask = torch.zeros(1, 1, dtype=torch.bool)
    new = torch.tensor([[torch.nan]], requires_grad=True)
    for unit in ("token", "sequence"):
        weights = loss_weights(mask, unit, 7)  # type: ignore[arg-type]
        loss, stats = policy_loss(new, new, new, weights, PolicyLossConfig())
        assert loss.item() == 0 and stats["num_tokens"] == 0
    with pytest.raises(ValueError, match="number of tokens"):
        loss_weights(mask, "token", 0)


def test_terms_are_added_with_their_coefficients() -> None:
    config = PolicyLossConfig(entropy_coefficient=0.1, kl_loss_coefficient=0.2)
    terms = {"entropy": torch.tensor(2.0), "kl": torch.tensor(3.0)}
    assert total_loss(config, torch.tensor(1.0), **terms).item() == pytest.approx(1 - 0.2 + 0.6)
    assert total_loss(PolicyLossConfig(), torch.tensor(1.0), **terms).item() == 1
    with pytest.raises(ValueError, match="no kl_loss term"):
        total_loss(config, torch.tensor(1.0), entropy=terms["entropy"])


def test_entropy_and_pretraining_are_means_over_tokens() -> None:
    mask = mask_of([2, 1])
    values = noise(mask, 3)
    weights = loss_weights(mask, "token", 3).double()
    assert weighted_mean(values, weights).item() == pytest.approx(values[mask].mean().item(), rel=1e-6)
    assert pretraining_loss(values, weights).item() == pytest.approx(-values[mask].mean().item(), rel=1e-6)
