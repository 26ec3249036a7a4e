"""From the preference model's raw scores to the scores PPO is trained on: normalised, clipped, penalised.

A preference model's scores have no zero and no unit of their own; beta, the clip and the value model need one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cai_ray.config import Config

if TYPE_CHECKING:
    from torch import Tensor

MIN_STD = 1e-4  # scores that vary less are left in their own unit


class ScoreConfig(Config):
    """What happens to raw scores, in this order: normalise, clip, penalise."""

    normalise: Literal["none", "scale", "standardise"] = Field(
        "none", description='"scale": over the running standard deviation; "standardise": minus the running mean too.'
    )
    clip: float | None = Field(None, gt=0.0, description="Scores stay in [-clip, clip], after normalising; null: free.")
    truncated_penalty: float = Field(
        0.0, ge=0.0, description="Taken off the score of an answer cut off at max_tokens, after clipping."
    )


class ScoreState(Config):
    """Running moments of all raw scores so far; part of the snapshot."""

    count: int = Field(0, ge=0)
    mean: float = 0.0
    squares: float = Field(0.0, ge=0.0, description="Sum of squared differences from the mean.")

    @property
    def std(self) -> float:
        """Population standard deviation; 1 while there is no spread to speak of."""
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > MIN_STD else 1.0


def observed(state: ScoreState, scores: Tensor) -> ScoreState:
    """The state after more raw scores (pairwise merging: Chan et al. 1979), float64.

    Whatever the batches, in any order, the moments are those of all scores at once, up to rounding.

    Args:
        scores: [num_sequences], of all workers.

    Raises:
        ValueError: a score that is not finite; it would spoil every later step.
    """
    values = scores.detach().double().cpu()
    if not values.numel():
        return state
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"score {row} is {float(values[row])}: the preference model's scores must be finite")
    count, mean = state.count + len(values), float(values.mean())
    shift = mean - state.mean
    return ScoreState(
        count=count,
        mean=state.mean + shift * len(values) / count,
        squares=state.squares + float(((values - mean) ** 2).sum()) + shift**2 * state.count * len(values) / count,
    )


def shaped_scores(scores: Tensor, truncated: Tensor, state: ScoreState, config: ScoreConfig) -> Tensor:
    """The scores PPO learns from.

    Args:
        scores: [num_sequences], raw.
        truncated: [num_sequences], bool: the answer was cut off.
        state: moments that already hold these scores (`observed`), so that the first step is normalised too.

    Returns:
        [num_sequences], detached, the dtype of `scores`.
    """
    shaped = scores.detach()
    if config.normalise == "standardise":
        shaped = shaped - state.mean
    if config.normalise != "none":
        shaped = shaped / state.std
    if config.clip is not None:
        shaped = shaped.clamp(-config.clip, config.clip)
    return shaped - config.truncated_penalty * truncated.to(shaped.dtype)
