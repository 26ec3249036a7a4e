"""How many prompts each source gives, and which: the same ones on any machine, whatever the order of the files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cai_ray.seeding import digest


def mixture_sizes(available: Sequence[int], weights: Sequence[float] | None, limit: int | None) -> list[int]:
    """How many prompts to take from each source, so that the shares match the weights.

    Args:
        available: usable prompts per source, >= 0.
        weights: > 0 each, any scale; None takes every source by its size.
        limit: most prompts in all; None takes as many as the scarcest source allows.

    The sizes differ from the exact shares by less than one prompt each, and never exceed `available`.
    """
    if weights is None:
        if limit is None or limit >= sum(available):
            return list(available)
        shares = [count / sum(available) for count in available]
    else:
        shares = [weight / sum(weights) for weight in weights]
    total = min((count / share for count, share in zip(available, shares, strict=True) if share > 0), default=0.0)
    size = min(int(total + 1e-9), limit if limit is not None else sum(available))
    exact = [share * size for share in shares]
    sizes = [min(int(part + 1e-9), count) for part, count in zip(exact, available, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for index in by_remainder:
        if sum(sizes) < size and sizes[index] < available[index]:
            sizes[index] += 1
    return sizes


def mixture_key(seed: int, prompt_id: str) -> int:
    """Where a prompt stands in the draw, in [0, 2**64): the sources give their prompts of smallest key."""
    return int.from_bytes(digest("mixture", seed, prompt_id, num_bytes=8), "big")


def smallest(keys: NDArray[np.uint64], size: int) -> int:
    """The bound below which exactly `size` of the distinct `keys` lie, for 0 <= size <= len(keys)."""
    if size >= len(keys):
        return 2**64
    return int(np.partition(keys, size)[size])
