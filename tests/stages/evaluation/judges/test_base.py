"""Judges in a recipe: which models a run needs, what of them is checked beforehand, what decides a fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import STOP_STRINGS
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropRow
from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import Recipe, build
from cai_ray.pipeline.steps import steps
from cai_ray.stages.evaluation.judges.base import JudgeConfig, asked_models, input_identity, scoring_models
from cai_ray.stages.evaluation.judges.guard import WildGuardJudge
from cai_ray.stages.evaluation.judges.pairwise import PairwiseJudge
from cai_ray.stages.evaluation.judges.rating import RatingJudge
from cai_ray.stages.evaluation.judges.yes_no import YesNoJudge
from tests.engines.backends.test_endpoint import Canned, Server, chat, server
from tests.stages.evaluation.evaluate_runs import RATER, YES_NO, config
from tests.stages.evaluation.judges.judging import ROW, config_error, over_http

__all__ = ["server"]

SERVER = {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "How do I paint a chair?"}\n')
    bare = tmp_path / "classifier"
    bare.mkdir()
    (bare / "model.safetensors").touch()
    (bare / "config.json").write_text("{}")  # without a tokenizer, and so without a chat template
    return {
        "name": "test",
        "output": str(tmp_path / "runs"),
        "models": {"policy": SERVER, "judge": SERVER, "classifier": {"path": str(bare)}},
        "prompts": {"path": str(prompts)},
    }


def recipe(data: dict[str, Any], *judges: dict[str, Any]) -> Recipe:
    return build({**data, "evaluate": {"policies": ["policy"], "judges": list(judges)}}, "test")


def fingerprint(made: Recipe) -> str:
    return pipeline.prepare(made, steps(made)).fingerprints["evaluate"]


CLASSIFIER = {"kind": "classifier", "model": "classifier", "labels": ["hate"]}


def test_a_classifier_needs_no_prompt_format(data: dict[str, Any]) -> None:
    made = recipe(data, CLASSIFIER)
    step = next(step for step in steps(made) if step.stage == "evaluate")
    assert (step.asks, step.scores_with) == (("policy",), ("classifier",))
    pipeline.prepare(made, steps(made))
    asked = recipe(data, {"kind": "rating", "model": "classifier"})
    with pytest.raises(ConfigError, match="no tokenizer at"):
        pipeline.prepare(asked, steps(asked))


def test_a_judge_that_the_recipe_does_not_know(data: dict[str, Any]) -> None:
    made = recipe(data, {"kind": "rating", "model": "oracle"})
    with pytest.raises(ConfigError, match=r"evaluate uses model 'oracle'.*add it to models"):
        pipeline.prepare(made, steps(made))


def test_mistakes_are_told_by_field(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.judges\.0\.rating\.aspect.*unknown key"):
        recipe(data, {"kind": "rating", "model": "judge", "aspect": {}})
    with pytest.raises(ConfigError, match="judges has judge twice"):
        recipe(data, {"kind": "rating", "model": "judge"}, {"kind": "guard", "model": "judge"})


def test_what_decides_the_results(data: dict[str, Any], tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("{behavior} {generation}")
    judge = {"kind": "yes_no", "model": "judge", "template": str(template)}
    before = fingerprint(recipe(data, judge))
    assert fingerprint(recipe(data, {**judge, "scaling": {"max_engines": 4}})) == before
    assert fingerprint(recipe(data, {**judge, "reading": "probability"})) != before
    template.write_text("{behavior} => {generation}")
    assert fingerprint(recipe(data, judge)) != before
    assert fingerprint(recipe(data, judge, CLASSIFIER)) != fingerprint(recipe(data, judge))


# --- The section itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judges", "told"),
    [
        ([RATER, {**YES_NO, "name": None}], "judges has judge twice; give each its own `name`"),
        ([{"kind": "oracle", "model": "judge"}], "'rating'"),
        ([{"kind": "rating"}], "model"),
        ([{**RATER, "name": "../up"}], "pattern"),
    ],
)
def test_configs_that_cannot_be(judges: list[dict[str, Any]], told: str) -> None:
    assert told in config_error(*judges)


def test_which_models_and_files_a_recipe_needs(tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("{behavior} {generation}")
    judges = config(
        RATER, {**YES_NO, "model": "harmbench", "template": str(template)}, {"kind": "reward", "model": "pm"}
    ).judges
    assert asked_models(judges) == ("judge", "harmbench") and scoring_models(judges) == ("pm",)
    before = input_identity(judges)
    template.write_text("{behavior} => {generation}")
    assert input_identity(judges) != before


# --- What every judge's model is asked ------------------------------------------------------------------

ASKED_IN_WORDS = (
    RatingJudge(model="m"),
    YesNoJudge(model="m"),
    WildGuardJudge(model="m"),
    PairwiseJudge(model="m", reading="text"),
)


@pytest.mark.parametrize("judge", ASKED_IN_WORDS, ids=lambda judge: judge.kind_name())
def test_a_base_model_that_judges_is_stopped_at_the_next_turn(server: Server, judge: JudgeConfig) -> None:
    """Without it a verdict runs on into a dialogue of the model's own making, and cannot be read."""
    choice = {"index": 0, "text": " Well.", "logprobs": None, "finish_reason": "stop"}
    server.replies = [Canned({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})]
    converse = judge.row_function(ModelConfig(format="transcript"), 0)
    unit = {**ROW, **{name: f"{name}." for name in ("response_a", "response_b")}}
    with pytest.raises(DropRow):
        over_http(server, lambda ask: converse(unit, ask), format="transcript")
    assert [body["stop"] for _, body, _ in server.requests] == [list(STOP_STRINGS)]
    server.replies = [chat("Well.")]
    with pytest.raises(DropRow):
        over_http(server, lambda ask: converse(unit, ask))
    assert "stop" not in server.requests[-1][1]
