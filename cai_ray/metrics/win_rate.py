"""How often one policy's answers are preferred to another's: games in both orders, win rate, standard error.

A game compares the answers of two policies to one prompt; its outcome is P(the first policy's answer is better) in
[0, 1], 0.5 for a tie. A judge that reads two texts favours a place, so it is asked in both orders.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from cai_ray.config import Config
from cai_ray.metrics.differences import bounded_difference
from cai_ray.metrics.intervals import Estimate


class WinRate(Config):
    """How a policy does against another.

    Attributes:
        rate: mean outcome in [0, 1], ties half; 95% interval over prompts, which `n` counts.
        standard_error: of the mean over prompts; None with one prompt.
        flip_rate: of the games judged in both orders, the share where the place decided; None without such games.
    """

    rate: Estimate
    standard_error: float | None
    num_games: int
    flip_rate: float | None


def win_rate(probs: Sequence[float], clusters: Sequence[str], flipped: Sequence[bool | None] = ()) -> WinRate | None:
    """The win rate over games; None without any.

    Args:
        probs: [num_games], outcomes in [0, 1].
        clusters: [num_games], the prompts; games of one prompt are averaged first.
        flipped: [num_games] or empty; None for a game that was judged in one order.
    """
    if not probs:
        return None
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for prob, cluster in zip(probs, clusters, strict=True):
        by_prompt[cluster].append(prob)
    means = [fmean(own) for own in by_prompt.values()]
    # On the scale from -1 (always lost) to 1, where the interval has a width even when every game ends alike.
    margin = bounded_difference([2 * one - 1 for one in means])
    known = [one for one in flipped if one is not None]
    return WinRate(
        rate=Estimate(value=(1 + margin.value) / 2, low=(1 + margin.low) / 2, high=(1 + margin.high) / 2, n=len(means)),
        standard_error=stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None,
        num_games=len(probs),
        flip_rate=fmean(known) if known else None,
    )
