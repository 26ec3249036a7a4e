"""PPO as a step of a run: which models it needs, what it makes, and what changes its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray import pipeline
from cai_ray.errors import ConfigError
from cai_ray.steps import steps
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
