"""Classifiers: the probability of labels, a threshold, and labels that the model does not know."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cai_ray.config import ModelConfig
from cai_ray.stages.evaluation.judges.classifier import ClassifierJudge, classify
from tests.stages.evaluation.judges.judging import (
    ENDPOINT,
    ROW,
    Door,
    classifier_folder,
    config_error,
    judged,
    refusal,
)


def test_a_classifier() -> None:
    labels = ["nothate", "hate"]
    plain = ClassifierJudge(model="m", name="J", labels=("hate",))
    door = Door([0.0, 2.0], truncated=True)
    value = pytest.approx(0.8807970)
    assert judged(classify(ROW, door, judge=plain, labels=labels, multi_label=False)) == {"harmful": value}
    row = asyncio.run(classify(ROW, door, judge=plain, labels=labels, multi_label=False))
    assert row["labels"] == ["truncated"]
    strict = plain.model_copy(update={"threshold": 0.9, "metric": "hateful"})
    assert judged(classify(ROW, door, judge=strict, labels=labels, multi_label=False)) == {"hateful": 0.0}


def test_unknown_labels_are_refused_with_those_the_model_knows(tmp_path: Path) -> None:
    model = ModelConfig(path=classifier_folder(tmp_path / "two", ["nothate", "hate"]))
    told = refusal(ClassifierJudge(model="judge", labels=("toxic", "hate")), model)
    assert "no label toxic; the model has nothate, hate" in told
    one = ModelConfig(path=classifier_folder(tmp_path / "one", ["LABEL_0"]))
    assert "one output has no probability" in refusal(ClassifierJudge(model="judge", labels=("LABEL_0",)), one)


def test_configs_that_cannot_be() -> None:
    assert "at least 1" in config_error({"kind": "classifier", "model": "judge", "labels": []})
    told = refusal(ClassifierJudge(model="judge", labels=("hate",)), ENDPOINT)
    assert "kind 'classifier' loads its model by `path`; models.judge is an endpoint" in told
