"""Calibration: do probabilities mean what they say? Reliability bins, expected calibration error, Brier, log loss.

Targets may be soft: the probability that the event happens, not only whether it did. With targets of 0 and 1 every
number here is the usual one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cai_ray.config import Config

TINY = 1e-12  # probabilities are kept this far from 0 and 1 in logarithms


class Bin(Config):
    """The predictions in [low, high); the last bin holds `high` too."""

    low: float
    high: float
    num: int  # predictions in it, >= 1; empty bins are left out
    mean_prob: float  # what was predicted, on average
    mean_target: float  # what happened, on average


class Calibration(Config):
    """How well `num` probabilities agree with their targets."""

    num: int
    ece: float  # in [0, 1]: mean over predictions of |mean_prob - mean_target| of their bin (Guo et al. 2017, eq. 3)
    brier: float  # in [0, 1]: mean squared difference
    log_loss: float  # nats: cross-entropy; never below the entropy of soft targets
    bins: tuple[Bin, ...]


def calibration(
    probs: Sequence[float], targets: Sequence[float], num_bins: int = 10, low: float = 0.0, high: float = 1.0
) -> Calibration | None:
    """Compare probabilities with targets; None when there are none.

    Args:
        probs: [num], in [low, high].
        targets: [num], in [0, 1].
        num_bins: >= 1 bins of equal width over [low, high].

    Raises:
        ValueError: different lengths, num_bins below 1, or a value outside its range.
    """
    p, t = np.asarray(probs, np.float64), np.asarray(targets, np.float64)
    _check(p, t, num_bins, low, high)
    if not len(p):
        return None
    edges = np.linspace(low, high, num_bins + 1)
    index = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, num_bins - 1)
    bins = [
        Bin(
            low=float(edges[k]),
            high=float(edges[k + 1]),
            num=int(inside.sum()),
            mean_prob=float(p[inside].mean()),
            mean_target=float(t[inside].mean()),
        )
        for k in range(num_bins)
        if (inside := index == k).any()
    ]
    safe = np.clip(p, TINY, 1 - TINY)
    return Calibration(
        num=len(p),
        ece=sum(b.num * abs(b.mean_prob - b.mean_target) for b in bins) / len(p),
        brier=float(np.mean((p - t) ** 2)),
        log_loss=float(np.mean(-t * np.log(safe) - (1 - t) * np.log1p(-safe))),
        bins=tuple(bins),
    )


def pair_calibration(probs: Sequence[float], targets: Sequence[float], num_bins: int = 10) -> Calibration | None:
    """`calibration` of probabilities that the first of a pair is better, where which comes first means nothing.

    Each pair is turned so that its likelier side comes first: confidence in [0.5, 1] against the share of pairs
    whose likelier side is the better one. The unturned numbers would hide errors: a model that is always sure and
    half the time wrong looks calibrated once half the pairs are swapped. Brier and log loss are the same either way.
    """
    turned = [(p, t) if p >= 0.5 else (1 - p, 1 - t) for p, t in zip(probs, targets, strict=True)]
    return calibration([p for p, _ in turned], [t for _, t in turned], num_bins, low=0.5)


def _check(p: NDArray[np.float64], t: NDArray[np.float64], num_bins: int, low: float, high: float) -> None:
    if p.shape != t.shape:
        raise ValueError(f"{len(p)} probabilities and {len(t)} targets: they must come in pairs")
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1")
    for name, values, least, most in (("probability", p, low, high), ("target", t, 0.0, 1.0)):
        wrong = values[~((values >= least) & (values <= most))]  # catches NaN, too
        if len(wrong):
            raise ValueError(f"{name} {wrong[0]} must lie in [{least}, {most}]")


def sigmoid(margin: float) -> float:
    """1 / (1 + exp(-margin)) without overflow."""
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))
