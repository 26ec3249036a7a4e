"""The probability of a classifier's labels.  Answer -> Judgement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from cai_ray.config import ModelConfig
from cai_ray.engines.backends.factory import classifier_factory
from cai_ray.engines.models.load_classifier import is_multi_label, labels_of
from cai_ray.errors import ConfigError
from cai_ray.metrics.classes import label_probability
from cai_ray.metrics.names import HARMFUL
from cai_ray.stages.evaluation.judges.base import (
    METRIC_PATTERN,
    AnswerJudge,
    Prompts,
    Row,
    RowFunction,
    judgement,
)


class ClassifierJudge(AnswerJudge):
    """Any sequence classifier: the probability of labels, by their names."""

    kind: Literal["classifier"] = "classifier"
    prompts: Prompts = "red_team"
    labels: tuple[str, ...] = Field(
        min_length=1, description="Of the model's id2label, those whose probability counts."
    )
    input: Literal["answer", "pair", "chat"] = Field(
        "answer", description='"answer": its text alone; "pair": conversation and answer; "chat": by chat template.'
    )
    metric: str = Field(HARMFUL, pattern=METRIC_PATTERN)
    threshold: float | None = Field(None, gt=0, lt=1, description="From this probability on 1, else 0; null: itself.")

    endpoint: ClassVar[Literal["may", "must", "never"]] = "never"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        labels, multi_label = labels_of(model), is_multi_label(model)
        try:
            label_probability([0.0] * len(labels), labels, self.labels, multi_label)
        except ValueError as error:
            raise ConfigError(f"judge {self.label!r}, model {model.path!r}: {error}") from error
        return partial(classify, judge=self, labels=labels, multi_label=multi_label)

    def engine(self, model: ModelConfig) -> Callable[[], Any]:
        return classifier_factory(model, self.input)


async def classify(row: Row, ask: Any, *, judge: ClassifierJudge, labels: Sequence[str], multi_label: bool) -> Row:
    """The probability of the judge's labels. `ask`: the door of a ClassifierBackend."""
    outputs = await ask.outputs(row["messages"], row["response"])
    value = label_probability(outputs.values, labels, judge.labels, multi_label)
    if judge.threshold is not None:
        value = float(value >= judge.threshold)
    return judgement(row, judge, {judge.metric: value}, ["truncated"] if outputs.truncated else ())
