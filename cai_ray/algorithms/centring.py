"""Give a linear score head without a bias a mean score of zero.

Llama, Qwen, Gemma and most other classifiers have score = w . h with no bias to shift, and inference engines that
load them have none either. But some direction u of the final states h is nearly constant, u . h = 1; then
w - b u scores b lower than w does, whatever the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Of the states' mean variance: the more, the less a direction is trusted that only seems constant in the sample.
RIDGES = tuple(10.0**-k for k in range(9))


class Centred(NamedTuple):
    """A centred head and what centring did to it.

    Attributes:
        weight: [hidden], the new head.
        offset: mean score that was taken away.
        noise_std: standard deviation of what the scores changed by besides `offset`; 0 if u were exactly constant.
    """

    weight: Array
    offset: float
    noise_std: float


def centred_head(weight: NDArray[np.floating], states: NDArray[np.floating]) -> Centred:
    """The head nearest to `weight` whose mean score over `states` is exactly zero.

    u is the direction with u . mean(h) = 1 along which the states vary least, so differences between answers, which
    are all that training decided, change as little as they can. How far to trust the sample's variance, a ridge, is
    chosen on one half of the states for the other.

    Args:
        weight: [hidden].
        states: [num_answers, hidden], final states at the scored token, num_answers >= 1, in no particular order.

    Raises:
        ValueError: no state, or the mean state is zero (then every head has mean zero).
    """
    if states.ndim != 2 or not len(states):
        raise ValueError(f"states of shape {states.shape} must be [num_answers >= 1, hidden]")
    w = np.asarray(weight, np.float64)
    h = np.asarray(states, np.float64)
    mean = h.mean(axis=0)
    if not mean.any():
        raise ValueError("the mean state is zero: its score is zero already")
    direction = _Directions(h).of(_best_ridge(h))
    offset = float(w @ mean)
    noise = offset * ((h - mean) @ direction)
    return Centred(w - offset * direction, offset, float(noise.std()))


class _Directions:
    """The directions of least variance of some states, for any ridge."""

    def __init__(self, states: Array) -> None:
        self._mean = states.mean(axis=0)
        variances, self._axes = np.linalg.eigh(np.cov(states, rowvar=False, bias=True).reshape(len(self._mean), -1))
        self._variances = np.maximum(variances, 0.0)
        self._scale = float(self._variances.mean()) or float(self._mean @ self._mean)

    def of(self, ridge: float) -> Array:
        """[hidden], u with u . mean = 1."""
        direction = self._axes @ ((self._mean @ self._axes) / (self._variances + ridge * self._scale))
        return np.asarray(direction / (direction @ self._mean))


def _best_ridge(states: Array) -> float:
    """The ridge whose direction, fitted to every second state, varies least over the others."""
    fitted, others = states[::2], states[1::2]
    if len(others) < 2 or not fitted.mean(axis=0).any():
        return RIDGES[3]
    directions = _Directions(fitted)
    values = {ridge: others @ directions.of(ridge) for ridge in RIDGES}
    return min(RIDGES, key=lambda ridge: float(values[ridge].std() / max(abs(values[ridge].mean()), 1e-12)))
