"""PPO as a step of a run: which models it needs, what it makes, and what changes its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from tests.small_recipes import SERVER, fields, recipe

ALL: dict[str, Any] = {"sft": {}, "pairs": {}, "labels": {}, "preference_model": {}, "ppo": {}}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return fields(tmp_path)


def test_the_step(data: dict[str, Any]) -> None:
    made = recipe(data, **ALL, evaluate={"policies": ["policy", "sl_cai", "rl_cai"]})
    (step,) = [step for step in steps(made) if step.stage == "train_ppo"]
    assert (step.trains, step.makes, step.asks, step.reads) == (
        "sl_cai", "rl_cai", ("preference_model",), ("load_prompts",),
    )  # fmt: skip
    context = pipeline.prepare(made, steps(made))
    assert context.trained["rl_cai"].stage == "train_ppo" and context.trained["rl_cai"].base_name == "policy"
    expanded = recipe(data, **ALL, expand={})
    assert [step.reads for step in steps(expanded) if step.stage == "train_ppo"] == [("expand_prompts",)]


def test_a_preference_model_must_be_there(data: dict[str, Any]) -> None:
    alone = recipe(data, sft={}, ppo={})
    with pytest.raises(ConfigError, match=r"train_ppo uses model 'preference_model'.*name another in ppo"):
        pipeline.prepare(alone, steps(alone))
    brought = recipe(data, models={"policy": SERVER, "judge": SERVER}, sft={}, ppo={"preference_model": "judge"})
    assert "train_ppo" in pipeline.prepare(brought, steps(brought)).fingerprints


def test_a_refresh_asks_the_feedback_model_and_reads_what_the_preference_model_learned(data: dict[str, Any]) -> None:
    models = {"policy": SERVER, "judge": SERVER}
    made = recipe(
        data, **{**ALL, "labels": {"model": "judge"}, "ppo": {"reward": {"kind": "refresh", "every": 5}}}, models=models
    )
    (step,) = [step for step in steps(made) if step.stage == "train_ppo"]
    assert step.asks == ("preference_model", "judge") and step.needs_constitution
    assert step.reads == ("load_prompts", "train_preference_model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "preference_model": None}, r"this recipe has no labels and no preference_model\. Add it"),
        ({"preference_model": None}, r"this recipe has no preference_model\. Add it, or choose another kind"),
        (
            {"ppo": {"reward": {"kind": "refresh", "every": 5}, "preference_model": "judge"}},
            r"ppo\.preference_model is 'judge'; set it to",
        ),
        ({"labels": {"model": "nobody"}}, r"uses model 'nobody', but models has policy, feedback"),
        ({"constitution": None}, r"the recipe names no constitution"),
    ],
)
def test_a_refresh_without_what_it_needs_is_refused(
    data: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    made = recipe(data, **{**ALL, "ppo": {"reward": {"kind": "refresh", "every": 5}}, **changes})
    with pytest.raises(ConfigError, match=message):
        pipeline.prepare(made, steps(made))


def test_the_fingerprint_follows_the_refresh_and_what_it_is_made_of(data: dict[str, Any]) -> None:
    def fingerprint(**changes: Any) -> str:
        made = recipe(data, **{**ALL, "ppo": {"reward": {"kind": "refresh", "every": 5}}, **changes})
        return pipeline.prepare(made, steps(made)).fingerprints["train_ppo"]

    base = fingerprint()
    assert fingerprint(ppo={}) != base != fingerprint(ppo={"reward": {"kind": "refresh", "every": 6}})
    assert fingerprint(ppo={"reward": {"kind": "preference_model"}}) == fingerprint(ppo={})
    assert fingerprint(labels={"num_few_shot": 1}) != base
    assert fingerprint(preference_model={"center_rewards_coefficient": None}) != base
    assert fingerprint(models={"policy": SERVER, "feedback": {**SERVER, "format": "transcript"}}) != base
    assert fingerprint(labels={"scaling": {"max_engines": 3}}) == base


JUDGED = {"reward": {"kind": "constitution", "model": "judge"}}


def test_a_constitution_asks_its_judge_and_no_preference_model(data: dict[str, Any]) -> None:
    models = {"policy": SERVER, "judge": SERVER}
    made = recipe(data, sft={}, ppo=JUDGED, models=models)
    (step,) = [step for step in steps(made) if step.stage == "train_ppo"]
    assert step.asks == ("judge",) and step.needs_constitution and step.reads == ("load_prompts",)
    plain = pipeline.prepare(made, steps(made)).fingerprints["train_ppo"]
    rubric = recipe(data, sft={}, ppo={"reward": {**JUDGED["reward"], "reading": "rubric"}}, models=models)
    other = recipe(data, sft={}, ppo=JUDGED, models={**models, "judge": {**SERVER, "format": "transcript"}})
    for changed in (rubric, other):
        assert pipeline.prepare(changed, steps(changed)).fingerprints["train_ppo"] != plain


def test_the_fingerprint_follows_the_preference_model(data: dict[str, Any]) -> None:
    def fingerprint(**changes: Any) -> str:
        made = recipe(data, **{**ALL, **changes})
        return pipeline.prepare(made, steps(made)).fingerprints["train_ppo"]

    base = fingerprint()
    assert fingerprint(preference_model={"targets": "hard"}) != base
    assert fingerprint(labels={"principles_per_pair": 2}) != base
    assert fingerprint(ppo={"kl": {"coefficient": 0.5}}) != base
    assert fingerprint(ppo={"workers": {"num_workers": 2}, "rollouts": {"num_engines": 3}}) == base
    assert fingerprint(preference_model={"workers": {"num_workers": 2}}) == base
