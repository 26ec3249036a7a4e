"""A preference or reward model's score of an answer, in its own unit.  Answer -> Judgement."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cai_ray.config import ModelConfig
from cai_ray.engines.backends.factory import classifier_factory
from cai_ray.engines.models.classifier import InputForm
from cai_ray.engines.models.load_classifier import labels_of
from cai_ray.errors import ConfigError
from cai_ray.lookup import InputFolder
from cai_ray.metrics.names import PREFERENCE_SCORE, SCORE
from cai_ray.stages.evaluation.judges.base import METRIC_PATTERN, AnswerJudge, Row, RowFunction, judgement


class RewardJudge(AnswerJudge):
    """A preference or reward model: one number per answer, in its own unit."""

    kind: Literal["reward"] = "reward"
    layout: Literal["classifier", "value_head"] = Field(
        "classifier", description='"value_head": a backbone and a linear head as a state dict, as Starling\'s.'
    )
    input: Literal["chat", "pair"] = Field("chat", description='Of layout "classifier"; "pair": two texts.')
    backbone: InputFolder | None = Field(
        None, description="Of a value head: folder or hub id of the model it was made from; null: its own folder."
    )
    metric: str = Field(PREFERENCE_SCORE, pattern=METRIC_PATTERN, description=f'Holds "{SCORE}", as it is no share.')

    endpoint: ClassVar[Literal["may", "must", "never"]] = "never"

    @model_validator(mode="after")
    def _sensible(self) -> RewardJudge:
        if SCORE not in self.metric:
            raise ValueError(f'metric={self.metric!r} is in a unit of its own, so its name must hold "{SCORE}"')
        if self.backbone is not None and self.layout != "value_head":
            raise ValueError('backbone is of layout="value_head"; set that, or leave backbone out')
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def form(self) -> InputForm:
        return "value_head" if self.layout == "value_head" else self.input

    def lenders(self) -> tuple[str, ...]:
        return (self.backbone,) if self.backbone else ()

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        if self.form != "value_head" and len(labels_of(model)) != 1:
            raise ConfigError(
                f"judge {self.label!r}: the model at {model.path!r} has outputs {', '.join(labels_of(model))}, and a "
                "reward is one number; use kind classifier"
            )
        return partial(reward, judge=self)

    def engine(self, model: ModelConfig) -> Callable[[], Any]:
        return classifier_factory(model, self.form, self.backbone)


async def reward(row: Row, ask: Any, *, judge: RewardJudge) -> Row:
    """The model's one output. `ask`: the door of a ClassifierBackend."""
    outputs = await ask.outputs(row["messages"], row["response"])
    (value,) = outputs.values
    return judgement(row, judge, {judge.metric: value}, ["truncated"] if outputs.truncated else ())
