"""Elo: against scikit-learn's logistic regression, by symmetry, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cai_ray.metrics.elo import POINTS_PER_NAT, Game, ratings, strengths, wins_by_cluster

POLICIES = ("base", "sl_cai", "rl_cai", "dpo")
TRUTH = (0.0, 1.0, 2.0, -0.5)


def simulated(num_prompts: int, seed: int, soft: bool = False) -> list[Game]:
    """Every pair once per prompt, with the outcomes that TRUTH, in nats, makes likely."""
    rng = np.random.default_rng(seed)
    games = []
    for prompt, (a, b) in itertools.product(range(num_prompts), itertools.combinations(range(len(POLICIES)), 2)):
        prob = 1 / (1 + math.exp(TRUTH[b] - TRUTH[a]))
        outcome = float(rng.beta(4 * prob, 4 * (1 - prob))) if soft else float(rng.random() < prob)
        games.append(Game(POLICIES[a], POLICIES[b], outcome, str(prompt)))
    return games


def by_logistic_regression(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same model as a regression: one column per policy, +1 for the winner's side and -1 for the other's."""
    from sklearn.linear_model import LogisticRegression

    rows, won, weights = [], [], []
    for a, b in itertools.permutations(range(len(wins)), 2):
        row = np.zeros(len(wins))
        row[a], row[b] = 1.0, -1.0
        rows += [row[1:], row[1:]]
        won += [1, 0]
        weights += [wins[a, b], wins[b, a]]
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(np.array(rows), won, sample_weight=weights)
    return np.concatenate([[0.0], model.coef_[0]])


@pytest.mark.parametrize("soft", [False, True])
def test_strengths_are_those_of_a_logistic_regression(soft: bool) -> None:
    wins = wins_by_cluster(simulated(60, seed=1, soft=soft), POLICIES).sum(axis=0)
    assert strengths(wins) == pytest.approx(by_logistic_regression(wins), abs=1e-4)


def test_ratings_are_those_strengths_in_elo_points() -> None:
    games = simulated(60, seed=2)
    wins = wins_by_cluster(games, POLICIES).sum(axis=0)
    drawn = wins + 0.5 * (1 - np.eye(len(POLICIES)))
    found = ratings(games, "base", num_resamples=10)
    assert [one.rating for one in found] == pytest.approx(by_logistic_regression(drawn) * POINTS_PER_NAT, abs=0.05)
    assert [one.policy for one in found] == list(POLICIES) and {one.num_games for one in found} == {180}


@given(st.floats(0.05, 0.95), st.integers(1, 400))
def test_two_policies_have_the_closed_form(prob: float, num_games: int) -> None:
    wins = np.array([[0, prob], [1 - prob, 0]]) * num_games
    assert strengths(wins)[1] == pytest.approx(math.log((1 - prob) / prob), abs=1e-4)


def test_four_hundred_points_are_odds_of_ten_to_one() -> None:
    games = [Game("b", "a", 10 / 11, str(k)) for k in range(100)]
    found = {one.policy: one for one in ratings(games, "a", prior_draws=1e-9, num_resamples=5)}
    assert found["b"].rating == pytest.approx(400, abs=0.1)
    assert (found["a"].rating, found["a"].low, found["a"].high) == (0, 0, 0)


def test_another_anchor_moves_all_alike() -> None:
    games = simulated(40, seed=3)
    base = {one.policy: one.rating for one in ratings(games, "base", num_resamples=2)}
    other = {one.policy: one.rating for one in ratings(games, "rl_cai", num_resamples=2)}
    for policy in POLICIES:
        assert other[policy] == pytest.approx(base[policy] - base["rl_cai"], abs=0.1)


def test_a_policy_that_never_loses_is_strong_and_not_infinite() -> None:
    games = [Game("base", "rl_cai", 0.0, str(k)) for k in range(50)]
    with pytest.raises(ValueError, match="add a draw"):
        strengths(wins_by_cluster(games, ("base", "rl_cai")).sum(axis=0))
    best = ratings(games, "base", num_resamples=20)[1]
    assert best.rating == pytest.approx(math.log(50.5 / 0.5) * POINTS_PER_NAT, abs=0.1)
    assert best.low <= best.rating <= best.high


def test_ties_alone_make_equals() -> None:
    games = [Game("base", "sl_cai", 0.5, str(k)) for k in range(20)]
    found = ratings(games, "base", num_resamples=20)
    assert [(one.rating, one.low, one.high) for one in found] == [(0, 0, 0), (pytest.approx(0, abs=1e-4),) * 3]


def test_policies_without_a_link_to_the_anchor_have_no_rating() -> None:
    games = [*simulated(10, seed=5), Game("x", "y", 1.0, "0")]
    assert [one.policy for one in ratings(games, "base", num_resamples=2)] == list(POLICIES)
    assert ratings(games, "nobody", num_resamples=2) == [] == ratings([], "base")


def test_games_of_one_prompt_hang_together() -> None:
    """The same games count for less when they are repeats of a few prompts."""
    one_each = simulated(90, seed=6)
    lumped = [game._replace(cluster=str(int(game.cluster) % 3)) for game in one_each]
    repeated = [game for game in one_each[:18] for _ in range(30)]
    plain, narrow, wide = (
        next(one for one in ratings(games, "base") if one.policy == "rl_cai") for games in (one_each, lumped, repeated)
    )
    assert plain.rating == pytest.approx(narrow.rating)
    assert wide.high - wide.low > 2 * (plain.high - plain.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    games = simulated(20, seed=7)
    assert ratings(games, "base", num_resamples=20) == ratings(games, "base", num_resamples=20)
    assert ratings(games, "base", num_resamples=20) != ratings(games, "base", num_resamples=20, seed=1)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """95% intervals hold the true rating about 95 times in 100."""
    hits = []
    for seed in range(60):
        found = {one.policy: one for one in ratings(simulated(80, seed), "base", num_resamples=100)}
        hits += [
            found[policy].low <= strength * POINTS_PER_NAT <= found[policy].high
            for policy, strength in zip(POLICIES[1:], TRUTH[1:], strict=True)
        ]
    assert 0.88 <= np.mean(hits) <= 1.0


@pytest.mark.parametrize(
    ("game", "told"),
    [
        (Game("base", "base", 0.5, "0"), "against itself"),
        (Game("base", "sl_cai", 1.5, "0"), "must lie in"),
        (Game("base", "sl_cai", math.nan, "0"), "must lie in"),
    ],
)
def test_games_that_cannot_be(game: Game, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ratings([game], "base")


def test_no_prior_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        ratings(simulated(2, 0), "base", prior_draws=0)


@given(
    st.integers(2, 6).flatmap(
        lambda k: st.lists(st.lists(st.floats(1e-3, 1e5), min_size=k, max_size=k), min_size=k, max_size=k)
    )
)
def test_the_likelihood_is_flat_at_its_maximum(table: list[list[float]]) -> None:
    """Where it peaks, every policy wins as often as its strength says it should."""
    wins = np.array(table) * (1 - np.eye(len(table)))
    found = strengths(wins)
    prob = 1 / (1 + np.exp(found[None, :] - found[:, None]))
    expected = ((wins + wins.T) * prob).sum(axis=1)
    assert found[0] == 0.0
    assert np.abs(expected - wins.sum(axis=1)).max() <= 1e-6 * wins.sum()
