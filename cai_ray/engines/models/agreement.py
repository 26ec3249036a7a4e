"""How far two sides are apart on the same tokens, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cai_ray.config import ModelConfig
from cai_ray.engines.models.reading import dtype_of

TOLERANCE = 1e-3  # nats per token, for float32 on both sides
# Nats per token: bfloat16 on either side rounds otherwise than the other. SmolLM2-135M, a bfloat16 engine against a
# float32 learner, 455 tokens: 0.03 on average, 0.22 at worst.
HALF_PRECISION_TOLERANCE = 0.1  # of the mean over all tokens
HALF_PRECISION_WORST = 0.5  # of a single token


def is_exact(model: ModelConfig, on_gpu: bool) -> bool:
    """Whether an engine of the model and its learner both compute in float32; on GPUs neither does."""
    import torch

    return not on_gpu and dtype_of(model) == torch.float32


@dataclass(frozen=True)
class Gap:
    """The worst token."""

    nats: float
    sequence: int
    token: int
    found: float
    expected: float


def largest_gap(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> Gap:
    """The token on which the two disagree most; one that is not a finite number wins. Needs at least one token."""
    worst = Gap(-1.0, 0, 0, 0.0, 0.0)
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for j, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            nats = abs(a - b)
            if not math.isfinite(nats):
                return Gap(math.inf, i, j, a, b)
            if nats > worst.nats:
                worst = Gap(nats, i, j, a, b)
    return worst
