"""Right-padded masks: which tokens of a batch were answered, and which one of each answer is the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def check_right_padded(mask: Tensor) -> None:
    """Every row must be True for its tokens and False from then on.

    Args:
        mask: [num_sequences, length], bool.

    Raises:
        ValueError: another shape or dtype, or a token after padding.
    """
    import torch

    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}: it must be bool [num_sequences, length]")
    wrong = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"row {row} of the mask has a token after padding: answers must be padded on the right only")


def at_last_token(values: Tensor, mask: Tensor) -> Tensor:
    """One value per sequence, put on the sequence's last token; zero elsewhere.

    Args:
        values: [num_sequences].
        mask: [num_sequences, length], bool, right-padded, at least one token per row.

    Returns:
        [num_sequences, length].

    Raises:
        ValueError: a row without tokens has no place for its value.
    """
    lengths = mask.sum(dim=1)
    if (lengths == 0).any():
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"sequence {row} has no token: a score needs one to land on (leave empty answers out)")
    placed = values.new_zeros(mask.shape)
    return placed.scatter(1, lengths[:, None] - 1, values[:, None])


def over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """One value per sequence on all of its tokens, zero on padding: [num_sequences] -> [num_sequences, length]."""
    return values[:, None] * mask
