"""How much better each token did than expected: GAE with a value model, RLOO and GRPO without one.

Shapes: [num_sequences, length] with a bool mask that is right-padded, True on the answer's tokens. What stands on
padding never changes a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cai_ray.algorithms.masks import check_right_padded, over_tokens
from cai_ray.config import Config

if TYPE_CHECKING:
    from torch import Tensor

AdvantageKind = Literal["gae", "rloo", "grpo"]
MIN_VARIANCE = 1e-8  # values that vary less than this are not blown up to unit variance


class AdvantageConfig(Config):
    """Which advantages, and how they are scaled."""

    kind: AdvantageKind = Field("gae", description='"rloo" and "grpo" need several answers per prompt, no value model.')
    gamma: float = Field(1.0, gt=0.0, le=1.0, description="Discount per token; 1: the score counts fully everywhere.")
    lam: float = Field(0.95, ge=0.0, le=1.0, description="GAE's lambda: 0 trusts the values, 1 the returns.")
    whiten: bool = Field(True, description="GAE only: mean 0 and variance 1 over all tokens of the batch.")
    scale_groups: bool = Field(True, description="GRPO only: divide by the group's standard deviation.")


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns that the value model learns.

    A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016, arXiv 1506.02438,
    eq. 16; eqs. 11-12 of Schulman et al. 2017, arXiv 1707.06347). An answer ends with its last token, truncated or
    not: V after it is 0.

    Args:
        rewards: [num_sequences, length], any real number.
        values: [num_sequences, length], V_t as predicted before token t was chosen.
        mask: [num_sequences, length], bool, right-padded.
        gamma: in (0, 1].
        lam: in [0, 1].

    Returns:
        advantages and returns = advantages + values, both [num_sequences, length], detached, zero on padding.

    Raises:
        ValueError: the mask is not right-padded.
    """
    import torch

    check_right_padded(mask)
    rewards = torch.where(mask, rewards.detach(), 0)
    values = torch.where(mask, values.detach(), 0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        # On padding all terms are zero, so the recursion starts afresh at each sequence's own end.
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = delta + gamma * lam * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def rloo(rewards: Tensor, groups: Tensor) -> Tensor:
    """Reward minus the mean reward of the *other* answers to the same prompt.

    REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740). An answer that is alone in
    its group has nothing to be compared with: its advantage is 0.

    Args:
        rewards: [num_sequences], of whole answers.
        groups: [num_sequences], integers; answers to the same prompt share one. Any order, groups of any size.

    Returns:
        [num_sequences].
    """
    counts, totals = _group_sums(rewards, groups)
    return (counts > 1) * (rewards - (totals - rewards) / (counts - 1).clamp(min=1))


def grpo(rewards: Tensor, groups: Tensor, *, scale: bool = True) -> Tensor:
    """Reward minus its group's mean, over the group's standard deviation.

    Outcome supervision of Shao et al. 2024 (arXiv 2402.03300, section 4.1.2). The standard deviation is the
    population's (divides by the size of the group). Groups whose rewards are equal get 0.

    Args:
        rewards: [num_sequences], of whole answers.
        groups: [num_sequences], integers; answers to the same prompt share one.
        scale: False leaves out the division, which weighs easy and hard prompts alike (Liu et al. 2025,
            arXiv 2503.20783).

    Returns:
        [num_sequences].
    """
    counts, totals = _group_sums(rewards, groups)
    centred = rewards - totals / counts
    if not scale:
        return centred
    _, squares = _group_sums(centred**2, groups)
    return centred / (squares / counts).clamp(min=MIN_VARIANCE).sqrt()


def advantages_of(
    config: AdvantageConfig,
    rewards: Tensor,
    mask: Tensor,
    *,
    values: Tensor | None = None,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The advantages `config.kind` names, not yet whitened, and returns where there is a value model.

    RLOO and GRPO credit every token of an answer with the answer's summed reward.

    Args:
        rewards: [num_sequences, length], KL-shaped.
        mask: [num_sequences, length], bool, right-padded.
        values: [num_sequences, length], for "gae".
        groups: [num_sequences], integers, for "rloo" and "grpo".

    Returns:
        advantages [num_sequences, length], zero on padding; returns of the same shape, None without values.

    Raises:
        ValueError: what the kind needs is missing, or the mask is not right-padded.
    """
    import torch

    if config.kind == "gae":
        if values is None:
            raise ValueError('advantage "gae" needs values: pass them, or choose "rloo" or "grpo"')
        return gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    if groups is None:
        raise ValueError(f'advantage "{config.kind}" needs groups: the prompt each answer belongs to')
    check_right_padded(mask)
    totals = torch.where(mask, rewards.detach(), 0).sum(dim=1)
    if config.kind == "rloo":
        return over_tokens(rloo(totals, groups), mask), None
    return over_tokens(grpo(totals, groups, scale=config.scale_groups), mask), None


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """[count, sum, sum of squares] over the mask, float64: add (all-reduce) those of all workers.

    Args:
        values: any shape; padding may hold anything.
        mask: the same shape, bool.
    """
    import torch

    kept = torch.where(mask, values.detach().double(), 0)
    return torch.stack([mask.sum().double(), kept.sum(), (kept**2).sum()])


def whiten(values: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """(x - mean) / standard deviation over the tokens that `total` was taken over; zero on padding.

    Variance is the population's, floored at 1e-8, so values that are all equal become 0.

    Args:
        values: any shape.
        mask: the same shape, bool.
        total: [3], the sum of every worker's `moments`; with one worker its own.
    """
    import torch

    mean, variance = _mean_and_variance(total)
    whitened = (values.double() - mean) * variance.clamp(min=MIN_VARIANCE).rsqrt()
    return torch.where(mask, whitened, 0).to(values.dtype)


def explained_variance(returns: Tensor, errors: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 perfect, 0 no better than a constant, negative worse.

    Args:
        returns: [3], summed `moments` of the returns.
        errors: [3], summed `moments` of returns - values over the same tokens.

    Returns:
        In (-inf, 1]; 0 where all returns are equal, when there is nothing to explain.
    """
    _, spread = _mean_and_variance(returns)
    _, left = _mean_and_variance(errors)
    return float(1 - left / spread) if spread > MIN_VARIANCE else 0.0


def _mean_and_variance(total: Tensor) -> tuple[Tensor, Tensor]:
    count = total[0].clamp(min=1)
    mean = total[1] / count
    return mean, (total[2] / count - mean**2).clamp(min=0)


def _group_sums(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Size and summed reward of each answer's group, both [num_sequences]."""
    import torch

    if rewards.dim() != 1 or groups.shape != rewards.shape:
        raise ValueError(f"rewards {list(rewards.shape)} and groups {list(groups.shape)} must both be [num_sequences]")
    _, index = torch.unique(groups, return_inverse=True)
    counts = torch.zeros_like(rewards).index_add(0, index, torch.ones_like(rewards))
    totals = torch.zeros_like(rewards).index_add(0, index, rewards)
    return counts[index], totals[index]
