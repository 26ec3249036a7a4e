"""Pairwise losses on soft targets: the label is a probability, not a verdict.

All of them are the expected loss over the label, p * loss(d) + (1 - p) * loss(-d), where d is by how much the
model favours `chosen` and p is `prob_chosen`. With p = 1 each is the usual hard loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SoftDpoLoss = Literal["sigmoid", "ipo"]


def pairwise_loss(margin: Tensor, prob_chosen: Tensor) -> Tensor:
    """-p log sigmoid(d) - (1 - p) log sigmoid(-d) of each pair, nats (Bai et al. 2022, section 4.1).

    The loss is least at d = log(p / (1 - p)), so a model that fits soft labels is calibrated by construction, and
    its gradient in d is sigmoid(d) - p.

    Args:
        margin: [num_pairs], score(chosen) - score(rejected), any real number.
        prob_chosen: [num_pairs], in [0, 1].

    Returns:
        [num_pairs], >= the entropy of the label.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(margin, prob_chosen.to(margin.dtype), reduction="none")


def centring_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(score(chosen) + score(rejected))^2 of each pair: keeps scores around zero, and leaves margins alone.

    TRL's `center_rewards_coefficient` multiplies its mean (Eisenstein et al. 2023, arXiv 2312.09244, eq. 2).
    """
    return (chosen + rejected) ** 2


def soft_dpo_loss(delta: Tensor, prob_chosen: Tensor, beta: float, loss_type: SoftDpoLoss) -> Tensor:
    """DPO on soft targets, per pair.

    "sigmoid": -p log sigmoid(beta d) - (1 - p) log sigmoid(-beta d), which is conservative DPO with a label
    smoothing of 1 - p for each pair. "ipo": (d - (2p - 1) / (2 beta))^2, the minimum of the expected IPO loss
    (Azar et al. 2023, arXiv 2310.12036, eq. 17) and, up to a constant, that loss itself.

    Args:
        delta: [num_pairs], log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected), nats; for "ipo" per token.
        prob_chosen: [num_pairs], in [0, 1].
        beta: > 0, strength of the pull towards the reference.
    """
    if loss_type == "sigmoid":
        return pairwise_loss(beta * delta, prob_chosen)
    return (delta - (2 * prob_chosen.to(delta.dtype) - 1) / (2 * beta)) ** 2
