"""Confidence intervals of rates and means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from cai_ray.config import Config

Z95 = NormalDist().inv_cdf(0.975)


class Estimate(Config):
    """A value with its 95% interval over `n` observations."""

    value: float
    low: float
    high: float
    n: int


def rate(num_hits: int, num_trials: int) -> Estimate | None:
    """A share in [0, 1] with its Wilson score interval; None without trials."""
    if num_trials == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(num_hits, num_trials).proportion_ci(method="wilson")
    return Estimate(value=num_hits / num_trials, low=float(interval.low), high=float(interval.high), n=num_trials)


def mean(values: Sequence[float]) -> Estimate | None:
    """A mean with its normal interval; None without values."""
    if not values:
        return None
    spread = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    middle = fmean(values)
    return Estimate(value=middle, low=middle - spread, high=middle + spread, n=len(values))
