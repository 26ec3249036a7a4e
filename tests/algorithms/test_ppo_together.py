"""All the parts in one small loop: the policy must find the optimum that is known in closed form.

A policy of two independent tokens with score s and penalty beta has the best answer pi* = softmax(log ref + s / beta)
(Ziegler et al. 2019, eq. 3). A wrong sign, mask or weight anywhere ends somewhere else.
"""

from __future__ import annotations

import pytest
import torch

from cai_ray.algorithms.advantages import AdvantageConfig, AdvantageKind, advantages_of, moments, whiten
from cai_ray.algorithms.kl import KlEstimator, kl_loss, per_token_kl, shaped_rewards
from cai_ray.algorithms.logprobs import token_logprobs
from cai_ray.algorithms.minibatches import minibatches
from cai_ray.algorithms.policy_losses import (
    PolicyLossConfig,
    ValueLossConfig,
    loss_weights,
    policy_loss,
    total_loss,
    truncated_importance,
    value_loss,
)

BETA, NUM, LENGTH, VOCABULARY = 0.5, 256, 2, 4


def learned(kind: AdvantageKind, estimator: KlEstimator, in_loss: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's mean probabilities over the second half of training, and the best ones; [LENGTH, VOCABULARY]."""
    torch.manual_seed(0)
    reference = torch.randn(LENGTH, VOCABULARY)
    worth = torch.tensor([[0.5, 0.0, -0.5, 0.0], [0.0, 0.0, 0.0, 0.75]])
    policy, values = reference.clone().requires_grad_(), torch.zeros(LENGTH, requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [policy], "lr": 0.03}, {"params": [values], "lr": 0.1}])
    advantage = AdvantageConfig(kind=kind, scale_groups=False)
    average = torch.zeros(LENGTH, VOCABULARY)
    # a third column of padding with poison in it: nothing may come from there
    mask = torch.tensor([True, True, False]).expand(NUM, 3)
    groups = torch.arange(NUM) // 8

    def of_tokens(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logprobs = token_logprobs(logits.expand(len(tokens), -1, -1), tokens)
        return torch.cat([logprobs, torch.full((len(tokens), 1), torch.nan)], dim=1)

    def padded_values(num: int) -> torch.Tensor:
        return torch.cat([values, torch.full((1,), torch.nan)]).expand(num, 3)

    for step in range(150):
        with torch.no_grad():
            tokens = torch.multinomial(policy.softmax(-1), NUM, replacement=True).T
            old, old_values = of_tokens(policy, tokens), padded_values(NUM)
            scores = worth[torch.arange(LENGTH), tokens].sum(1)
            ref = of_tokens(reference, tokens)
            kl = per_token_kl(old, ref, estimator)
            rewards = shaped_rewards(scores, kl, mask, 0.0 if in_loss else BETA)
            advantages, returns = advantages_of(advantage, rewards, mask, values=old_values, groups=groups)
            advantages = whiten(advantages, mask, moments(advantages, mask)) if kind == "gae" else advantages
            importance, _ = truncated_importance(old, old, mask, 2.0)
        for chosen in minibatches([LENGTH] * NUM, 2, seed=step):
            rows = list(chosen)
            weights = loss_weights(mask[rows], "token", len(rows) * LENGTH)
            new = of_tokens(policy, tokens[rows])
            config = PolicyLossConfig(kl_loss_coefficient=BETA if in_loss else 0.0)
            loss, _ = policy_loss(new, old[rows], advantages[rows], weights, config, importance[rows])
            if in_loss:
                loss = total_loss(config, loss, kl=kl_loss(new, ref[rows], weights, estimator))  # type: ignore[arg-type]
            if returns is not None:
                now = padded_values(len(rows))
                loss = loss + value_loss(now, old_values[rows], returns[rows], weights, ValueLossConfig()).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if step >= 75:
            average += policy.detach().softmax(-1) / 75
    best = (reference + worth / BETA).softmax(-1)
    assert (best - reference.softmax(-1)).abs().max() > 0.25  # there is something to learn
    return average, best


@pytest.mark.parametrize(
    ("kind", "estimator", "in_loss"),
    [
        ("gae", "k1", False),
        pytest.param("rloo", "k1", False, marks=pytest.mark.slow),
        pytest.param("grpo", "k1", False, marks=pytest.mark.slow),
        ("grpo", "k2", True),
    ],
)
def test_the_policy_finds_the_optimum_of_score_minus_beta_kl(
    kind: AdvantageKind, estimator: KlEstimator, in_loss: bool
) -> None:
    average, best = learned(kind, estimator, in_loss)
    assert (average - best).abs().max() < 0.05


def test_k3_in_the_reward_overshoots_as_its_gradient_says() -> None:
    average, best = learned("gae", "k3")
    assert (average - best).abs().max() > 0.1
    assert average.max() > best.max()
