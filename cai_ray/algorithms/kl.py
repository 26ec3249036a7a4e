"""Keeping the policy near the reference: KL estimates per token, rewards shaped by them, and what beta is.

Shapes: [num_sequences, length] with a bool mask that is right-padded. Log-probabilities and KL are nats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cai_ray.algorithms.masks import at_last_token
from cai_ray.config import Config

if TYPE_CHECKING:
    from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
MAX_EXPONENT = 20.0  # k3 grows like exp: beyond e^20 the estimate says "far off", and must not overflow
MAX_ERROR = 0.2  # Ziegler et al. 2019, section 2.2


class KlConfig(Config):
    """How the distance from the reference is measured and charged."""

    estimator: KlEstimator = Field(
        "k1",
        description="Of the KL taken off rewards; only k1 has the KL's gradient there, k2 and k3 find other optima.",
    )
    coefficient: float = Field(0.001, ge=0.0, description="Beta, score per nat; the paper's is 0.001. 0: no penalty.")
    target: float | None = Field(
        None, gt=0.0, description="Nats per answer to steer beta towards; null keeps beta as it is."
    )
    horizon: int = Field(10_000, ge=1, description="Answers over which the steering acts; smaller is quicker.")


class KlState(Config):
    """The controller between two steps; part of the snapshot."""

    coefficient: float = Field(ge=0.0, description="Beta of the coming step, score per nat.")


def per_token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """One-sample estimates of KL(policy || reference) from tokens that the policy chose.

    With r = reference / policy: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r (Schulman 2020, "Approximating
    KL Divergence", joschu.net/blog/kl-approx.html). As numbers k1 and k3 are unbiased, k2 and k3 never negative, k3
    the steadiest: the one to log. What they teach is another matter, and follows from the score function:

    - in the reward (no gradient through them) only k1 has the gradient of KL(policy || reference). k3 has that minus
      the gradient of KL(reference || policy): giving up tokens of the reference pays, and the policy overshoots.
    - in the loss k2 has it; k3 has that of KL(reference || policy), which is GRPO's choice; k1 has none.

    Args:
        logprobs: any shape, of the chosen tokens.
        ref_logprobs: the same shape.

    Returns:
        The same shape; k3 is at most about e^20. Padding holds whatever the inputs make of it.
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio**2 / 2
    return (-log_ratio).clamp(max=MAX_EXPONENT).expm1() + log_ratio


def sequence_kl(kl: Tensor, mask: Tensor) -> Tensor:
    """Nats per answer: [num_sequences, length] -> [num_sequences]. Its mean is what controllers and guards read."""
    import torch

    return torch.where(mask, kl, 0).sum(dim=1)


def shaped_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """The score on each answer's last token, minus beta times the KL on every token.

    Summed over an answer it is score - beta KL, the reward of Bai et al. 2022 (arXiv 2204.05862, section 4.1), which
    the Constitutional AI paper keeps (arXiv 2212.08073, section 4).

    Args:
        scores: [num_sequences].
        kl: [num_sequences, length], nats.
        mask: [num_sequences, length], bool, right-padded, at least one token per row.
        coefficient: beta, >= 0.

    Returns:
        [num_sequences, length], detached, zero on padding.

    Raises:
        ValueError: an answer without tokens.
    """
    import torch

    penalty = torch.where(mask, kl.detach() * coefficient, 0)
    return at_last_token(scores.detach().to(penalty.dtype), mask) - penalty


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, weights: Tensor, estimator: Literal["k2", "k3"]) -> Tensor:
    """KL as a term of the loss rather than of the reward, with gradient: GRPO's way (arXiv 2402.03300, eqs. 3-4).

    On fresh samples k2 has the gradient of KL(policy || reference), k3 (GRPO's) that of KL(reference || policy). k1 is
    not offered: the expected gradient of log pi is zero, so as a loss it does nothing.

    Args:
        logprobs: any shape, nats, with gradient.
        ref_logprobs: the same shape.
        weights: the same shape, of `policy_losses.loss_weights`; 0 on padding.

    Returns:
        A scalar, nats.
    """
    import torch

    mask = weights > 0
    kept = torch.where(mask, logprobs, 0)
    kept_ref = torch.where(mask, ref_logprobs, 0)
    return (weights * per_token_kl(kept, kept_ref, estimator)).sum()


def first_state(config: KlConfig) -> KlState:
    """The controller before the first step."""
    return KlState(coefficient=config.coefficient)


def next_state(state: KlState, config: KlConfig, mean_kl: float, num_sequences: int) -> KlState:
    """Beta of the next step: unchanged without a target, else steered in proportion to the error.

    beta *= 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon (Ziegler et al. 2019, arXiv 1909.08593, section 2.2,
    with the gain per answer rather than per step). n counts as the horizon at most: a step moves beta by 20% or less.

    Args:
        mean_kl: nats per answer, over all workers; finite.
        num_sequences: answers it is the mean of, >= 1.

    Raises:
        ValueError: mean_kl is not finite; guards must refuse such a step before.
    """
    if not math.isfinite(mean_kl):
        raise ValueError(f"mean_kl={mean_kl} is not finite: the controller would never recover; skip this step")
    if config.target is None:
        return state
    error = min(max(mean_kl / config.target - 1, -MAX_ERROR), MAX_ERROR)
    return KlState(coefficient=state.coefficient * (1 + error * min(num_sequences / config.horizon, 1)))
