"""Intervals over clusters, against values worked out by hand, a regression's formula, and a bootstrap."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from cai_ray.metrics.intervals import clustered_error, clustered_mean, clustered_rate, mean, rate, verdict_share

T95_OF_1 = 12.706204736  # Student's t, 97.5%, one degree of freedom
T95_OF_2 = 4.302652730


def drawn(seed: int, num_clusters: int) -> tuple[list[bool], list[int]]:
    """Hits whose probability belongs to their cluster; clusters of one to six."""
    rng = random.Random(seed)
    hits, clusters = [], []
    for cluster in range(num_clusters):
        share = rng.betavariate(1.2, 0.8)
        for _ in range(rng.randint(1, 6)):
            hits.append(rng.random() < share)
            clusters.append(cluster)
    return hits, clusters


def test_the_error_by_hand() -> None:
    # mean 3; cluster sums of deviations -3 (a) and 3 (b): sqrt(2/1 x (9 + 9)) / 4
    values, clusters = [1.0, 2.0, 4.0, 5.0], ["a", "a", "b", "b"]
    assert clustered_error(values, clusters) == pytest.approx(math.sqrt(2 * 18) / 4)
    found = clustered_mean(values, clusters)
    assert found is not None
    assert (found.value, found.n) == (3.0, 4)
    assert (found.low, found.high) == pytest.approx((3 - T95_OF_1 * 1.5, 3 + T95_OF_1 * 1.5))


def test_the_error_is_that_of_a_regression_on_a_constant_with_clustered_errors() -> None:
    """The sandwich (X'X)^-1 (sum_g X_g' u_g u_g' X_g) (X'X)^-1 x G/(G-1) x (n-1)/(n-k), with k = 1."""
    hits, clusters = drawn(3, 40)
    values, n = np.array(hits, float), len(hits)
    ones = np.ones((n, 1))
    bread = np.linalg.inv(ones.T @ ones)
    residuals = values - ones[:, 0] * (bread @ ones.T @ values)[0]
    scores = [ones[np.array(clusters) == g].T @ residuals[np.array(clusters) == g] for g in range(40)]
    meat = sum(np.outer(score, score) for score in scores)
    variance = (bread @ meat @ bread)[0, 0] * 40 / 39 * (n - 1) / (n - 1)
    assert clustered_error(values.tolist(), clusters) == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_what_resampling_clusters_shows(seed: int) -> None:
    hits, clusters = drawn(seed, 150)
    groups = [[h for h, c in zip(hits, clusters, strict=True) if c == g] for g in range(150)]
    sums, sizes = np.array([sum(g) for g in groups]), np.array([len(g) for g in groups])
    picks = np.random.default_rng(seed).integers(0, 150, (4000, 150))
    shares = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    assert clustered_error([float(h) for h in hits], clusters) == pytest.approx(shares.std(), rel=0.06)
    found = clustered_rate(hits, clusters)
    assert found is not None
    low, high = np.quantile(shares, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_one_observation_per_cluster_is_the_usual_error(values: list[float]) -> None:
    usual = stdev(values) / math.sqrt(len(values))
    assert clustered_error(values, range(len(values))) == pytest.approx(usual, abs=1e-9)


def test_repeated_observations_add_nothing() -> None:
    values = [0.0, 1.0, 1.0]
    once = clustered_mean(values, [0, 1, 2])
    often = clustered_mean(values * 7, [0, 1, 2] * 7)
    naive = mean(values * 7)
    assert once is not None and often is not None and naive is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < (often.high - often.low) / 2
    assert once.high - once.value == pytest.approx(T95_OF_2 * stdev(values) / math.sqrt(3))


def test_a_rate_by_hand() -> None:
    # Share 1/2, cluster sums of deviations 1, -1, 0, 0, n=8: variance 4/3 x 2 / 64 = 1/24, worth (1/4) / (1/24) = 6.
    hits = [True, True, False, False, True, False, True, False]
    found = clustered_rate(hits, [0, 0, 1, 1, 2, 2, 3, 3])
    assert found is not None
    z = 3.182446305  # Student's t, 97.5%, three degrees
    spread = z / (1 + z**2 / 6) * math.sqrt(0.25 / 6 + z**2 / (4 * 36))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.5, 0.5 - spread, 0.5 + spread, 8))


def test_a_rate_of_singles_is_close_to_wilson() -> None:
    hits = [k % 3 == 0 for k in range(600)]
    clustered, plain = clustered_rate(hits, range(600)), rate(200, 600)
    assert clustered is not None and plain is not None
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=2e-4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60))
def test_a_rate_stays_within_its_bounds(drawn_hits: list[tuple[bool, int]]) -> None:
    hits, clusters = [hit for hit, _ in drawn_hits], [cluster for _, cluster in drawn_hits]
    found = clustered_rate(hits, clusters)
    assert found is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.001
    assert found.value == pytest.approx(fmean(map(float, hits)))


def test_agreement_of_all_is_worth_as_much_as_there_are_clusters() -> None:
    few, many = clustered_rate([True] * 100, [k % 5 for k in range(100)]), clustered_rate([True] * 100, range(100))
    assert few is not None and many is not None
    assert few.value == many.value == few.high == 1.0
    assert few.low < 0.5 < 0.95 < many.low


def test_nothing_is_made_of_nothing() -> None:
    assert clustered_rate([], []) is None
    assert clustered_mean([], []) is None
    assert clustered_mean([1.0, 2.0], ["one", "one"]) is None
    alone = clustered_rate([True, False], ["one", "one"])
    assert alone is not None and alone.high - alone.low > 0.8
    with pytest.raises(ValueError, match="at least 2"):
        clustered_error([1.0, 2.0], ["one", "one"])


@pytest.mark.parametrize(("share", "num"), [(1.0, 1), (0.75, 8), (0.5, 2), (0.0, 16)])
def test_verdict_shares_against_scipy(share: float, num: int) -> None:
    posterior = beta(share * num + 0.5, (1 - share) * num + 0.5)
    assert verdict_share(share, num) == pytest.approx((posterior.mean(), *posterior.interval(0.95)))


def test_few_verdicts_are_never_sure() -> None:
    sure = [verdict_share(1.0, num) for num in (1, 8, 64)]
    assert [one.prob for one in sure] == pytest.approx([0.75, 8.5 / 9, 64.5 / 65])
    assert all(one.low < one.prob < one.high < 1 for one in sure)
    assert verdict_share(0.25, 8).prob == pytest.approx(1 - verdict_share(0.75, 8).prob)
    assert verdict_share(0.5, 8).prob == 0.5
