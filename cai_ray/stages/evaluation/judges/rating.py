"""Ratings of an answer from 1 to 5 by a model that is asked for JSON.  Answer -> Judgement."""

from __future__ import annotations

import re
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.engines.conversations.asking import Ask
from cai_ray.metrics.names import SCORE
from cai_ray.prompts.judges.rating import ASPECTS, REASON, parse_ratings, rating_messages
from cai_ray.stages.evaluation.judges.base import (
    AnswerJudge,
    Row,
    RowFunction,
    judgement,
    nonce_of,
    unparsable,
)


class RatingJudge(AnswerJudge):
    """Ratings from 1 to 5, as JSON."""

    kind: Literal["rating"] = "rating"
    aspects: dict[str, str] = Field(
        ASPECTS, min_length=1, description="Name -> what 1 and 5 mean; metric <name>_score."
    )
    sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=256)

    frame_tokens: ClassVar[int] = 250

    @field_validator("aspects")
    @classmethod
    def _names(cls, aspects: dict[str, str]) -> dict[str, str]:
        for name in aspects:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == REASON:
                raise ValueError(f"aspect {name!r} must be lower case letters, digits and _, and not {REASON!r}")
        return aspects

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(f"{name}_{SCORE}" for name in self.aspects)

    @property
    def reasoning(self) -> SamplingConfig:
        return self.sampling

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(rate, judge=self, seed=seed)


async def rate(row: Row, ask: Ask, *, judge: RatingJudge, seed: int) -> Row:
    """Ratings from 1 to 5. Raises DropRow(UNPARSABLE)."""
    asked = rating_messages(row["messages"], row["response"], judge.aspects, nonce_of(row, seed))
    completion = await ask(asked, judge.sampling)
    found = parse_ratings(completion.text, list(judge.aspects))
    if found is None:
        raise unparsable(f"a rating of {', '.join(judge.aspects)}", completion)
    values = dict(zip(judge.metrics, (float(found[name]) for name in judge.aspects), strict=True))
    return judgement(row, judge, values, reply=completion.text)
