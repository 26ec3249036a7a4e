"""The summary of `train_ppo`: its steps at either end and on average, and what happened on the way.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config


class Refresh(Config):
    """One refresh of the preference model, as metrics.jsonl says it; every figure is a key of its own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float | None]

    attempt: int = Field(description="Of the stage, >= 1.")
    elapsed_s: float = Field(description="Since that attempt began, seconds, >= 0.")
    event: str = Field(description="The refresh in words.")
    step: int = Field(description="After this step, >= 0.")
    refresh: int = Field(description="Its number, >= 1.")

    @property
    def figures(self) -> dict[str, int | float | None]:
        """Key of metrics.jsonl -> number; None is no finite one."""
        return self.__pydantic_extra__


class PpoSummary(RowsSummary):
    """Of all steps, each as it was done last. Means are by key of metrics.jsonl, over the steps that have it."""

    num_steps: int = Field(description="Steps done, >= 0.")
    num_episodes: int = Field(description="Answers that were sampled, >= 0.")
    num_output_tokens: int = Field(description="Tokens of these answers, >= 0.")
    steps_compared: int = Field(description="Steps at either end that `first` and `last` are over, >= 1.")
    first: dict[str, float] = Field(description="Means of the first steps.")
    last: dict[str, float] = Field(description="Means of the last steps.")
    mean: dict[str, float] = Field(description="Means of all steps.")
    updates_skipped: int | float = Field(description="Updates that were not learned from, >= 0.")
    events: tuple[str, ...] = Field(description="What was told on the way: restarts, skipped steps, refreshes.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
    reward: str = Field("preference_model", description="Where the reward came from: its kind, and a judge's reading.")
    num_judge_tokens: int = Field(0, description="Tokens that the reward's judge read and wrote, >= 0.")
    refreshes: tuple[Refresh, ...] = Field((), description="Refreshes of the preference model, in order.")
