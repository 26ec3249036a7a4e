"""Random batches of answers for the tests of PPO's maths: lengths, a right-padded mask, values full of poison."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)
seeds = st.integers(0, 2**31 - 1)


def mask_of(answers: list[int], padding: int = 2) -> torch.Tensor:
    """[num_sequences, longest + padding], bool."""
    return torch.arange(max(answers) + padding)[None, :] < torch.tensor(answers)[:, None]


def noise(mask: torch.Tensor, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Normal float64 values on the mask, NaN on padding: what reaches a result from there shows."""
    generator = torch.Generator().manual_seed(seed)
    values = scale * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return values.masked_fill(~mask, torch.nan)


def kept(values: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    """The values of each answer's own tokens, as plain floats."""
    return [row[: int(m.sum())].tolist() for row, m in zip(values, mask, strict=True)]
