"""Confidence intervals of rates and means, over independent observations or over clusters of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from cai_ray.config import Config

Z95 = NormalDist().inv_cdf(0.975)
PRIOR = 0.5  # Jeffreys', of either of two options


class Estimate(Config):
    """A value with its 95% interval over `n` observations."""

    value: float
    low: float
    high: float
    n: int


def complement(share: Estimate) -> Estimate:
    """The estimate of 1 less a share."""
    return Estimate(value=1 - share.value, low=1 - share.high, high=1 - share.low, n=share.n)


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


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """The standard error of a mean whose observations hang together within clusters.

    Cluster-robust (Liang and Zeger 1986), with the correction G / (G - 1) for G clusters: what a regression on
    a constant reports with clustered errors. One observation per cluster gives the usual error of a mean.
    `values` and `clusters` are [n]. Raises ValueError with fewer than two clusters.
    """
    middle = fmean(values)
    sums: defaultdict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - middle
    num_clusters = len(sums)
    if num_clusters < 2:
        raise ValueError(f"{num_clusters} cluster says nothing about the spread between clusters; at least 2 do")
    variance = num_clusters / (num_clusters - 1) * sum(total**2 for total in sums.values()) / len(values) ** 2
    return math.sqrt(variance)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """A mean with its interval over clusters, Student's t with G - 1 degrees; None with fewer than two clusters."""
    num_clusters = len(set(clusters))
    if num_clusters < 2:
        return None
    spread = _t95(num_clusters - 1) * clustered_error(values, clusters)
    middle = fmean(values)
    return Estimate(value=middle, low=middle - spread, high=middle + spread, n=len(values))


def clustered_rate(hits: Sequence[bool], clusters: Sequence[Hashable]) -> Estimate | None:
    """A share in [0, 1] with a Wilson interval over clusters; None without observations.

    The interval is Wilson's with as many trials as the clusters are worth: n / design effect, at most n, and no
    fewer than the clusters where all observations agree, which shows no design effect. So it stays within [0, 1],
    and a share of 0 or 1 has a width. One cluster is worth one trial.
    """
    if not hits:
        return None
    n, num_clusters = len(hits), len(set(clusters))
    share = fmean(map(float, hits))
    if num_clusters < 2:
        low, high = _wilson(share, 1.0, Z95)
        return Estimate(value=share, low=low, high=high, n=n)
    variance = clustered_error([float(hit) for hit in hits], clusters) ** 2
    if 0 < share < 1:
        worth = float(n) if variance == 0 else min(float(n), share * (1 - share) / variance)
    else:
        worth = float(num_clusters)
    low, high = _wilson(share, worth, _t95(num_clusters - 1))
    return Estimate(value=share, low=low, high=high, n=n)


def _wilson(share: float, num_trials: float, z: float) -> tuple[float, float]:
    """Wilson's score interval with a number of trials that need not be whole."""
    scale = 1 + z**2 / num_trials
    middle = (share + z**2 / (2 * num_trials)) / scale
    spread = z / scale * math.sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2))
    return max(0.0, min(share, middle - spread)), min(1.0, max(share, middle + spread))


def _t95(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


class VerdictShare(NamedTuple):
    """What sampled verdicts say of a probability in [0, 1]: the Beta posterior's mean and its central 95% interval."""

    prob: float
    low: float
    high: float


def verdict_share(share: float, num: int) -> VerdictShare:
    """Of `num` >= 1 verdicts of which a share in [0, 1] chose the option, under Jeffreys' prior Beta(1/2, 1/2).

    Few verdicts say little: the mean stays away from 0 and 1 by as much as they are few.
    """
    from scipy.special import betaincinv

    chosen, other = share * num + PRIOR, (1 - share) * num + PRIOR
    low, high = (float(betaincinv(chosen, other, quantile)) for quantile in (0.025, 0.975))
    return VerdictShare(chosen / (chosen + other), low, high)
