"""Elo ratings of policies from pairwise games: the Bradley-Terry model by maximum likelihood, with bootstrap intervals.

P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400)). Unlike Elo's own running update the result does not depend on the
order of the games. Outcomes may be soft, P(the first is better) in [0, 1]: such a game counts as that share of a win
and the rest of a loss. Only differences mean anything, so one policy, the base, is held at 0. The paper draws its
helpfulness and harmlessness on this scale (Bai et al. 2022, figures 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cai_ray.config import Config

POINTS_PER_NAT = 400 / math.log(10)
TOLERANCE = 1e-10  # of the log-likelihood's slope, per game
MOST_STEPS = 200  # of Newton's method; a handful is the rule


class Game(NamedTuple):
    """Two policies' answers to one prompt, compared."""

    policy_a: str
    policy_b: str
    prob_a: float  # [0, 1]; 0.5: a tie
    cluster: str  # the prompt: its games hang together


class Rating(Config):
    """One policy's rating in Elo points, with its 95% bootstrap interval over prompts; the anchor's is 0 exactly."""

    policy: str
    rating: float
    low: float
    high: float
    num_games: int


def ratings(
    games: Sequence[Game], anchor: str, *, prior_draws: float = 1.0, num_resamples: int = 1000, seed: int = 0
) -> list[Rating]:
    """Ratings of the policies that the games connect with the anchor, in order of appearance; empty without games.

    Args:
        games: each between two different policies.
        anchor: the policy at 0.
        prior_draws: draws added between any two policies that met, > 0. Without them a policy that never lost would
            be infinitely strong; one draw keeps the ratings finite and weighs little among many games.
        num_resamples: bootstrap samples of the prompts, each fitted anew, >= 1.
        seed: of the bootstrap.

    Raises:
        ValueError: a policy against itself, an outcome outside [0, 1], or prior_draws not above 0.
    """
    if not prior_draws > 0:
        raise ValueError(f"prior_draws={prior_draws} must be above 0; strengths() fits without a prior")
    policies = _connected(games, anchor)
    played = [game for game in games if game.policy_a in policies]
    if not played:
        return []
    wins = wins_by_cluster(played, policies)
    total = wins.sum(axis=0)
    prior = np.where(total + total.T > 0, prior_draws / 2, 0.0)
    at = policies.index(anchor)
    fitted = strengths(total + prior, at)
    rng = np.random.default_rng(seed)
    share = np.full(len(wins), 1 / len(wins))  # each prompt is drawn as often as any other
    drawn = [np.tensordot(rng.multinomial(len(wins), share), wins, axes=1) + prior for _ in range(num_resamples)]
    low, high = np.quantile(_likeliest(np.stack(drawn), at, fitted), (0.025, 0.975), axis=0)
    num_games = (total + total.T).sum(axis=1)
    return [
        Rating(
            policy=policy,
            rating=float(fitted[k] * POINTS_PER_NAT),
            # The value lies within its interval also where the bootstrap is coarse.
            low=float(min(low[k], fitted[k]) * POINTS_PER_NAT),
            high=float(max(high[k], fitted[k]) * POINTS_PER_NAT),
            num_games=round(float(num_games[k])),
        )
        for k, policy in enumerate(policies)
    ]


def wins_by_cluster(games: Sequence[Game], policies: Sequence[str]) -> NDArray[np.float64]:
    """[num_clusters, num_policies, num_policies]: how often row i beat column j in the games of each cluster.

    Raises ValueError for a policy against itself or an outcome outside [0, 1].
    """
    clusters = {cluster: k for k, cluster in enumerate(dict.fromkeys(game.cluster for game in games))}
    index = {policy: k for k, policy in enumerate(policies)}
    wins = np.zeros((len(clusters), len(policies), len(policies)))
    for game in games:
        if game.policy_a == game.policy_b:
            raise ValueError(f"a game of {game.policy_a!r} against itself says nothing; compare two policies")
        if not 0 <= game.prob_a <= 1:  # catches NaN, too
            raise ValueError(f"prob_a={game.prob_a} must lie in [0, 1]")
        a, b = index[game.policy_a], index[game.policy_b]
        wins[clusters[game.cluster], a, b] += game.prob_a
        wins[clusters[game.cluster], b, a] += 1 - game.prob_a
    return wins


def strengths(wins: NDArray[np.float64], anchor: int = 0) -> NDArray[np.float64]:
    """[num_policies] log-strengths in nats that make these wins likeliest; the anchor's is 0.

    `wins` is [num_policies, num_policies], how often row i beat column j, >= 0; need not be whole. Raises ValueError
    where there is no finite maximum, because some policies won or lost every game against the others, or never met
    them (Ford 1957).
    """
    from scipy.sparse.csgraph import connected_components

    if connected_components(wins > 0, connection="strong")[0] > 1:
        raise ValueError("some policies won, lost or played no game against the others; add a draw between each two")
    return _likeliest(wins[None], anchor, np.zeros(len(wins)))[0]


def _likeliest(wins: NDArray[np.float64], anchor: int, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """[num_fits, num_policies]: Newton's method on the concave log-likelihood, many small fits at once.

    `wins` is [num_fits, num_policies, num_policies], `start` [num_policies]. A step is cut to one nat, because far
    from the maximum, where the likelihood is flat, Newton's own step leaps over it.
    """
    from scipy.special import expit

    num_policies = wins.shape[-1]
    free = np.arange(num_policies) != anchor
    games = wins + wins.swapaxes(1, 2)
    found = np.tile(start, (len(wins), 1))
    scale = games.sum(axis=(1, 2)).max()
    for _ in range(MOST_STEPS):
        prob = expit(found[:, :, None] - found[:, None, :])
        slope = (wins - games * prob).sum(axis=2)  # of the log-likelihood, by each strength
        if np.abs(slope[:, free]).max(initial=0.0) <= TOLERANCE * scale:
            return found
        weight = games * prob * (1 - prob)
        curvature = np.eye(num_policies) * weight.sum(axis=2)[:, :, None] - weight
        step = np.linalg.solve(curvature[:, free][:, :, free], slope[:, free, None])[:, :, 0]
        found[:, free] += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True, initial=0.0))
    raise ArithmeticError(f"no maximum of the likelihood found in {MOST_STEPS} steps")


def _connected(games: Sequence[Game], anchor: str) -> list[str]:
    """The policies that a chain of games links to the anchor, in order of appearance."""
    met = {(game.policy_a, game.policy_b) for game in games}
    reached: set[str] = set()
    grown = {anchor}
    while grown != reached:
        reached = grown
        grown = reached.union(*(pair for pair in met if reached & set(pair)))
    return [policy for policy in dict.fromkeys(p for g in games for p in (g.policy_a, g.policy_b)) if policy in reached]
