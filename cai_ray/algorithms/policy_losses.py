"""The losses of one minibatch: clipped policy loss, clipped value loss, and what may be added to them.

All are weighted sums over tokens, elementwise, so any shape does: [num_sequences, length] padded, or [num_tokens]
packed. `loss_weights` makes the weights; they hold the size of the *whole* minibatch, so the sum over micro-batches
and workers is the same number however the minibatch was spread. Where gradients are averaged over workers (DeepSpeed,
DDP), multiply the loss by the number of workers; where they are averaged over accumulation steps, by those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from cai_ray.algorithms.token_stats import token_stats
from cai_ray.config import Config
from cai_ray.metrics.training_keys import APPROX_KL, CLIP_FRACTION, DUAL_CLIP_FRACTION, OUTLIERS, VALUE_CLIP_FRACTION

if TYPE_CHECKING:
    from torch import Tensor

LossUnit = Literal["token", "sequence"]
MAX_LOG_RATIO = 20.0  # ratios stop at e^20 rather than overflow; such tokens are left out long before
DUAL_CLIP = 3.0


class PolicyLossConfig(Config):
    """How the policy learns from its rollouts."""

    clip_range: float = Field(0.2, gt=0.0, lt=1.0, description="Epsilon: gains from ratios beyond 1 +- this count not.")
    clip_range_high: float | None = Field(None, gt=0.0, description="Another epsilon above 1; null: the same.")
    dual_clip: float | None = Field(
        DUAL_CLIP,
        gt=1.0,
        exclude_if=lambda clip: clip == DUAL_CLIP,  # runs from before there was one keep their fingerprint
        description="Losses from ratios beyond this count not either, where the advantage is negative; null: any.",
    )
    unit: LossUnit = Field("token", description='"token": every token counts alike; "sequence": every answer does.')
    max_importance: float | None = Field(
        2.0, ge=1.0, description="Cap on trainer/sampler probability weights; null: no correction."
    )
    entropy_coefficient: float = Field(0.0, ge=0.0, description="Bonus per nat of entropy per token.")
    kl_loss_coefficient: float = Field(
        0.0, ge=0.0, description="KL in the loss (GRPO), beside or without the reward's."
    )
    kl_loss_estimator: Literal["k2", "k3"] = Field(
        "k2", description="k2 pulls like KL(policy || reference); GRPO has k3."
    )
    pretraining_coefficient: float = Field(0.0, ge=0.0, description="Weight of next-token loss on other text.")


class ValueLossConfig(Config):
    """How the value model learns the returns."""

    clip_range: float | None = Field(0.2, gt=0.0, description="Values may move this far per step; null: any distance.")


class LossAndStats(NamedTuple):
    """A scalar with gradient, and detached mergeable statistics (see token_stats)."""

    loss: Tensor
    stats: dict[str, Tensor]


def loss_weights(mask: Tensor, unit: LossUnit, total: float) -> Tensor:
    """What each token counts in the loss; over the whole minibatch the weights sum to 1.

    "token" is the mean over tokens. "sequence" is the mean over sequences of their means over tokens, as in GRPO
    (Shao et al. 2024, arXiv 2402.03300, eq. 3).

    Args:
        mask: [num_sequences, length], bool.
        total: tokens ("token") or sequences ("sequence") of the whole minibatch, over workers and micro-batches; > 0.

    Returns:
        [num_sequences, length], float32, 0 on padding.
    """
    if total <= 0:
        raise ValueError(f"total={total} must be the minibatch's number of {unit}s, at least 1")
    weights = mask.float() / total
    return weights if unit == "token" else weights / mask.sum(dim=-1, keepdim=True).clamp(min=1)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    config: PolicyLossConfig,
    importance: Tensor | None = None,
    max_ratio: float | None = None,
) -> LossAndStats:
    """-sum w min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), ratio = new / old (Schulman et al. 2017, eq. 7).

    Without a bound on the other side one token that was improbable when it was sampled can have any ratio, and with a
    negative advantage any loss. So that term is at least c A there, c = dual_clip (Ye et al. 2020, arXiv 1912.09729,
    eq. 6).

    Args:
        logprobs: nats, of the chosen tokens under the policy being trained; with gradient.
        old_logprobs: the same shape, under the *trainer's* policy at the start of the step.
        advantages: the same shape.
        weights: the same shape, of `loss_weights`; what has weight 0 is padding and may hold anything.
        importance: the same shape, of `truncated_importance`; None counts every token fully.
        max_ratio: > 1; tokens with a larger ratio, or its inverse, are outliers and add nothing; None: none are.

    Returns:
        The loss, and the sums `clip_fraction` (tokens whose gradient a clip removed), `dual_clip_fraction` (those of
        them beyond dual_clip), `outliers`, `ratio` and `approx_kl` (KL(old || new), k3, nats) of the others, with the
        extremes `ratio_min` and `ratio_max` of all.
    """
    import torch

    mask = weights > 0
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    gain = torch.where(mask, advantages.detach(), 0)
    if importance is not None:
        gain = gain * torch.where(mask, importance.detach(), 0)
    high = config.clip_range if config.clip_range_high is None else config.clip_range_high
    free = ratio * gain
    clipped = ratio.clamp(1 - config.clip_range, 1 + high) * gain
    least = -math.inf if config.dual_clip is None else config.dual_clip * gain
    beyond = (gain < 0) & (free < least)
    outlier = log_ratio.abs() > (math.inf if max_ratio is None else math.log(max_ratio))
    surrogate = torch.where(beyond, least, torch.minimum(free, clipped))
    loss = -(weights * torch.where(outlier, 0, surrogate)).sum()
    sums = {
        CLIP_FRACTION: ((clipped < free) | beyond).double(),
        DUAL_CLIP_FRACTION: beyond.double(),
        OUTLIERS: outlier.double(),
        "ratio": torch.where(outlier, 1, ratio),
        APPROX_KL: torch.where(outlier, 0, log_ratio.expm1() - log_ratio),
    }
    return LossAndStats(loss, token_stats(mask, sums, {"ratio": ratio}))


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, config: ValueLossConfig
) -> LossAndStats:
    """sum w max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2.

    The squared error is that of Schulman et al. 2017, eq. 9; clipping it like the ratio is not in the paper but in
    its authors' code (openai/baselines, ppo2).

    Args:
        values: any shape, with gradient.
        old_values: the same shape, as predicted at the start of the step.
        returns: the same shape.
        weights: the same shape, of `loss_weights`; what has weight 0 is padding and may hold anything.

    Returns:
        The loss, and the sums `value_clip_fraction`, `value_error` (squared).
    """
    import torch

    mask = weights > 0
    values, old = torch.where(mask, values, 0), torch.where(mask, old_values.detach(), 0)
    target = torch.where(mask, returns.detach(), 0)
    free = (values - target) ** 2
    if config.clip_range is None:
        worst = free
    else:
        near = old + (values - old).clamp(-config.clip_range, config.clip_range)
        worst = torch.maximum(free, (near - target) ** 2)
    sums = {VALUE_CLIP_FRACTION: (worst > free).double(), "value_error": free}
    return LossAndStats((weights * worst).sum() / 2, token_stats(mask, sums, {}))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum w x, with gradient: mean entropy (nats per token) for the bonus, or any other per-token term.

    Args:
        values: any shape; padding may hold anything.
        weights: the same shape, of `loss_weights`.
    """
    import torch

    return (weights * torch.where(weights > 0, values, 0)).sum()


def pretraining_loss(logprobs: Tensor, weights: Tensor) -> Tensor:
    """Next-token loss on text not to be forgotten, nats per token (Ouyang et al. 2022, arXiv 2203.02155, eq. 2).

    Args:
        logprobs: any shape, of that text's own tokens, with gradient.
        weights: the same shape, of `loss_weights` over that text's tokens.
    """
    return -weighted_mean(logprobs, weights)


def total_loss(
    config: PolicyLossConfig, policy: Tensor, *, entropy: Tensor | None = None, kl: Tensor | None = None
) -> Tensor:
    """policy - c_H entropy + c_KL KL: Schulman et al. 2017, eq. 9, without the value term.

    The value model is a model of its own here, so its loss is not added; `pretraining_loss` has passes of its own.

    Args:
        policy: scalar, of `policy_loss`.
        entropy, kl: scalars of `weighted_mean`, `kl.kl_loss`; each is needed where its coefficient is above 0, and
            has no effect elsewhere.

    Raises:
        ValueError: a term with a coefficient was not given.
    """
    terms = {"entropy": (-config.entropy_coefficient, entropy), "kl_loss": (config.kl_loss_coefficient, kl)}
    total = policy
    for name, (coefficient, term) in terms.items():
        if coefficient:
            if term is None:
                raise ValueError(f"{name}_coefficient is {abs(coefficient)} but no {name} term was given; set it to 0")
            total = total + coefficient * term
    return total


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> LossAndStats:
    """min(trainer / sampler, cap) for each token, detached: what makes rollouts of a slightly other policy count right.

    The engine that sampled and the trainer that learns disagree a little on the same weights, and a lot when rollouts
    are one step old (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training").

    Args:
        old_logprobs: any shape, nats, under the trainer's policy at the start of the step.
        sampler_logprobs: the same shape, as the engine reported them when it chose the tokens.
        mask: the same shape, bool.
        cap: >= 1.

    Returns:
        As `loss`: the weights, same shape, in [0, cap], 0 on padding. As `stats`: the sums `sampler_gap` (absolute,
        nats), `sampler_kl` (KL(sampler || trainer), k3, nats), `importance_capped`, extremes `sampler_gap_max`.
    """
    import torch

    log_ratio = torch.where(mask, old_logprobs.detach() - sampler_logprobs.detach(), 0)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    sums = {
        "sampler_gap": log_ratio.abs(),
        "sampler_kl": log_ratio.expm1() - log_ratio,
        "importance_capped": (ratio > cap).double(),
    }
    stats = token_stats(mask, sums, {"sampler_gap": log_ratio.abs()})
    return LossAndStats(torch.where(mask, ratio.clamp(max=cap), 0), stats)
