"""The summary of `score_rounds`: the preference model's score and harm, by revision round.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.intervals import Estimate


class RoundEstimates(Config):
    """One round: beside its number, every metric is a key of its own, None where nothing could be estimated.

    A metric is a share in [0, 1], or preference_score in the preference model's own units, higher is better. As a
    change: this round less the one before, paired by prompt; shares then lie in [-1, 1].
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Estimate | None]

    round: int = Field(description="0: the initial answer; k: the k-th revision.")

    @property
    def metrics(self) -> dict[str, Estimate | None]:
        """Metric -> its estimate."""
        return self.__pydantic_extra__


class RoundsSummary(RowsSummary):
    """Rounds over the same dialogues; intervals are over prompts."""

    num_dialogues: int = Field(description="Dialogues whose initial answer was scored, >= 0.")
    judge: str = Field(description="The preference model, as the recipe calls it.")
    rounds: tuple[RoundEstimates, ...] = Field(description="[num_rounds + 1], the initial answers first.")
    changes: tuple[RoundEstimates, ...] = Field(description="[num_rounds], each round less the one before.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
