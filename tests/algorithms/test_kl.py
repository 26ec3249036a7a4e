"""KL estimators against exact KL, shaped rewards against a loop, and the controllers' arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.kl import (
    KlConfig,
    KlEstimator,
    KlState,
    first_state,
    kl_loss,
    next_state,
    per_token_kl,
    sequence_kl,
    shaped_rewards,
)
from cai_ray.algorithms.policy_losses import loss_weights
from tests.answer_batches import kept, lengths, mask_of, noise, seeds

log_ratios = st.floats(-15, 15)


@given(log_ratio=log_ratios)
def test_estimators_against_the_formulas(log_ratio: float) -> None:
    policy, reference = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.0 - log_ratio]).double()
    r = math.exp(float(reference - policy))
    expected = {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": r - 1 - math.log(r)}
    for name, value in expected.items():
        got = float(per_token_kl(policy, reference, name))  # type: ignore[arg-type]
        assert got == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert name == "k1" or got >= 0


@given(seed=seeds)
def test_which_estimator_is_unbiased_and_which_gradient_each_has(seed: int) -> None:
    """Expectations are taken over the whole vocabulary, so nothing is left to chance."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    policy, reference = logits.log_softmax(-1), other.log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    for name in ("k1", "k3"):
        estimate = (policy.exp() * per_token_kl(policy, reference, name)).sum()  # type: ignore[arg-type]
        assert estimate.item() == pytest.approx(exact.item(), abs=1e-9)
    reverse = (reference.exp() * (reference - policy)).sum()
    (of_kl,), (of_reverse,) = (torch.autograd.grad(kl, logits, retain_graph=True) for kl in (exact, reverse))

    def in_loss(name: KlEstimator) -> torch.Tensor:
        loss = (policy.detach().exp() * per_token_kl(policy, reference, name)).sum()
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    def in_reward(name: KlEstimator) -> torch.Tensor:
        cost = (policy.exp() * per_token_kl(policy, reference, name).detach()).sum()
        return torch.autograd.grad(cost, logits, retain_graph=True)[0]

    assert torch.allclose(in_reward("k1"), of_kl, atol=1e-9)
    assert torch.allclose(in_reward("k3"), of_kl - of_reverse, atol=1e-9)
    assert torch.allclose(in_loss("k1"), torch.zeros(7).double(), atol=1e-9)
    assert torch.allclose(in_loss("k2"), of_kl, atol=1e-9)
    assert torch.allclose(in_loss("k3"), of_reverse, atol=1e-9)


def test_k3_far_from_the_reference_is_large_and_finite() -> None:
    far = per_token_kl(torch.tensor([-500.0]), torch.tensor([-0.1]), "k3")
    assert far.isfinite().all() and float(far) > 1e8


@given(answers=lengths, seed=seeds, beta=st.floats(0, 2))
def test_shaped_rewards_are_a_score_at_the_end_minus_kl_everywhere(answers: list[int], seed: int, beta: float) -> None:
    mask = mask_of(answers)
    kl, scores = noise(mask, seed), noise(mask, seed + 1)[:, 0]
    rewards = shaped_rewards(scores, kl, mask, beta)
    for i, row in enumerate(kept(kl, mask)):
        expected = [-beta * x for x in row]
        expected[-1] += float(scores[i])
        assert rewards[i, : len(row)].tolist() == pytest.approx(expected)
    assert not rewards[~mask].any()
    assert torch.allclose(rewards.sum(1), scores - beta * sequence_kl(kl, mask))


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_loss_is_the_mean_over_tokens_and_padding_has_no_gradient(estimator: KlEstimator) -> None:
    mask = mask_of([3, 1])
    logprobs = noise(mask, 1).requires_grad_()
    reference = noise(mask, 2)
    weights = loss_weights(mask, "token", 4)
    loss = kl_loss(logprobs, reference, weights, estimator)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == pytest.approx(per_token_kl(logprobs, reference, estimator)[mask].mean().item(), rel=1e-6)
    assert logprobs.grad is not None and not logprobs.grad[~mask].any() and logprobs.grad[mask].all()


def test_a_fixed_coefficient_stays() -> None:
    config = KlConfig(coefficient=0.05)
    assert next_state(first_state(config), config, 1e9, 512) == KlState(coefficient=0.05)


@pytest.mark.parametrize(
    ("kl", "num", "factor"),
    [(6.0, 100, 1), (6.6, 100, 1.01), (5.4, 100, 0.99), (600.0, 100, 1.02), (0.0, 100, 0.98), (600.0, 10**6, 1.2)],
)
def test_the_adaptive_coefficient_follows_the_error_within_its_clip(kl: float, num: int, factor: float) -> None:
    config = KlConfig(coefficient=0.1, target=6.0, horizon=1000)
    assert next_state(first_state(config), config, kl, num).coefficient == pytest.approx(0.1 * factor)


def test_the_controller_brings_a_simple_policy_to_its_target() -> None:
    """A policy whose KL is 1 / beta: the fixed point is beta = 1 / target."""
    config = KlConfig(coefficient=1.0, target=8.0, horizon=256)
    state = first_state(config)
    for _ in range(200):
        state = next_state(state, config, 1 / state.coefficient, 64)
    assert 1 / state.coefficient == pytest.approx(8.0, rel=0.01)


def test_the_state_survives_json_and_refuses_what_is_not_a_number() -> None:
    state = KlState(coefficient=0.1 + 0.2)
    assert KlState.model_validate_json(state.model_dump_json()) == state
    with pytest.raises(ValueError, match="mean_kl=nan"):
        next_state(state, KlConfig(), math.nan, 1)
