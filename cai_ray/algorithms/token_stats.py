"""Statistics over tokens that can be merged: over micro-batches, over workers, in any order.

A worker sees a part of the tokens only, so it keeps sums and extremes, never means. The name says how a value
merges: `*_min` and `*_max` are extremes, everything else adds up; `num_tokens` is what sums are divided by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NUM_TOKENS = "num_tokens"


def token_stats(mask: Tensor, sums: Mapping[str, Tensor], extremes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of per-token values, and least and largest of others.

    Args:
        mask: bool, any shape.
        sums: name -> values of the mask's shape; padding may hold anything.
        extremes: name -> values of the mask's shape; gives `<name>_min` and `<name>_max`, +inf and -inf where no
            token is (which merge away).

    Returns:
        name -> float64 scalar, detached, on the mask's device.
    """
    import torch

    stats = {NUM_TOKENS: mask.sum().double()}
    for name, values in sums.items():
        stats[name] = torch.where(mask, values.detach(), 0).sum(dtype=torch.float64)
    for name, values in extremes.items():
        stats[f"{name}_min"] = torch.where(mask, values.detach(), torch.inf).amin().double()
        stats[f"{name}_max"] = torch.where(mask, values.detach(), -torch.inf).amax().double()
    return stats


def merge(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The statistics of all parts together.

    Raises:
        ValueError: no parts, or parts that measured different things.
    """
    import torch

    first, *rest = [dict(part) for part in parts] or [{}]
    if not first:
        raise ValueError("no statistics to merge: a worker must report at least one micro-batch")
    for part in rest:
        if part.keys() != first.keys():
            raise ValueError(f"parts hold different statistics: {sorted(part.keys() ^ first.keys())}")
        for name, value in part.items():
            if name.endswith("_min"):
                first[name] = torch.minimum(first[name], value)
            elif name.endswith("_max"):
                first[name] = torch.maximum(first[name], value)
            else:
                first[name] = first[name] + value
    return first


def read(stats: Mapping[str, Tensor]) -> dict[str, float]:
    """Plain numbers for the log: sums as means per token, extremes and the number of tokens as they are.

    Raises:
        ValueError: not a single token was counted.
    """
    num_tokens = float(stats[NUM_TOKENS])
    if num_tokens == 0:
        raise ValueError("statistics over no tokens have no mean: merge the parts of all workers first")
    as_is = {NUM_TOKENS, *(name for name in stats if name.endswith(("_min", "_max")))}
    return {name: float(value) if name in as_is else float(value) / num_tokens for name, value in stats.items()}
