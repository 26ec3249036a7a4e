"""generation_config.json, where the recipe says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.errors import ConfigError
from cai_ray.pipeline.model_sampling import NAME, sampling_of, told, with_model_sampling
from cai_ray.pipeline.recipe import Recipe, build, load

MAKERS = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1, "max_new_tokens": 7, "do_sample": True}
OURS = SamplingConfig()
THEIRS = SamplingConfig(temperature=0.2, top_p=0.9, repetition_penalty=1.1)


def folder(path: Path, said: Any = None) -> str:
    path.mkdir()
    if said is not None:
        (path / NAME).write_text(said if isinstance(said, str) else json.dumps(said), encoding="utf-8")
    return str(path)


def recipe(models: dict[str, Any], **sections: Any) -> Recipe:
    return build({"name": "r", "models": models, **sections}, "r.yaml")


@pytest.fixture
def policy(tmp_path: Path) -> dict[str, Any]:
    return {"policy": {"path": folder(tmp_path / "makers", MAKERS)}}


def test_a_silent_recipe_samples_as_the_makers_do(policy: dict[str, Any]) -> None:
    made = with_model_sampling(
        recipe(policy, expand={}, sft={}, pairs={}, labels={}, evaluate={"policies": ["policy", "sl_cai"]})
    )
    revise, pairs = made.revise, made.pairs
    assert (revise.answer_sampling, revise.critique_sampling, revise.revision_sampling) == (THEIRS,) * 3
    assert made.expand and made.expand.sampling == THEIRS
    assert made.labels and made.labels.cot_sampling == THEIRS  # the policy labels
    assert made.evaluate and made.evaluate.sampling == THEIRS
    assert pairs and pairs.temperatures == (0.2,)
    assert pairs.sampling == THEIRS.model_copy(update={"temperature": 1.0})


def test_what_the_recipe_says_goes_before_field_by_field(policy: dict[str, Any]) -> None:
    said = {"answer_sampling": {"temperature": 1.0, "max_tokens": 9}}
    made = with_model_sampling(recipe(policy, revise=said, sft={}, pairs={"temperatures": [0.7]}))
    assert made.revise.answer_sampling == THEIRS.model_copy(update={"temperature": 1.0, "max_tokens": 9})
    assert made.pairs and made.pairs.temperatures == (0.7,)


def test_methods_that_need_their_own_sampling_keep_it(policy: dict[str, Any]) -> None:
    judge = {"kind": "rating", "name": "help", "model": "policy", "metric": "helpful", "question": "q"}
    judges = [{key: value for key, value in judge.items() if key in ("kind", "name", "model")}]
    sections: dict[str, Any] = {"sft": {}, "pairs": {}, "labels": {}, "preference_model": {}, "ppo": {}}
    before = recipe(policy, **sections, evaluate={"judges": judges})
    after = with_model_sampling(before)
    assert before.ppo and after.ppo and after.ppo.sampling == before.ppo.sampling == OURS
    assert before.evaluate and after.evaluate and after.evaluate.judges == before.evaluate.judges


def test_each_section_goes_by_its_own_model(tmp_path: Path, policy: dict[str, Any]) -> None:
    feedback = {"path": folder(tmp_path / "feedback", {"temperature": 0.5, "top_k": 20})}
    made = with_model_sampling(recipe({**policy, "feedback": feedback}, sft={}, pairs={}, labels={}))
    assert made.labels and made.labels.cot_sampling == SamplingConfig(temperature=0.5, top_k=20)
    assert made.revise.answer_sampling == THEIRS
    several = recipe({**policy, "feedback": feedback}, evaluate={"policies": ["policy", "feedback"]})
    evaluated = with_model_sampling(several).evaluate
    assert evaluated and evaluated.sampling == OURS  # policies are compared under one sampling


@pytest.mark.parametrize("said", [None, {"eos_token_id": 2}, {"temperature": 0.2, "do_sample": False}])
def test_models_with_nothing_to_say_change_nothing(tmp_path: Path, said: Any) -> None:
    written = recipe({"policy": {"path": folder(tmp_path / "model", said)}})
    assert with_model_sampling(written) is written


def test_endpoints_and_the_micro_model_are_not_looked_at(policy: dict[str, Any]) -> None:
    server = {**policy["policy"], "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    assert sampling_of(ModelConfig.model_validate(server)) == ("", {})
    assert sampling_of(ModelConfig()) == ("", {})


@pytest.mark.parametrize("said", ["{", "[]", '{"temperature": -1}', '{"top_p": "much"}'])
def test_a_file_that_errs_is_named(tmp_path: Path, said: str) -> None:
    model = ModelConfig(path=folder(tmp_path / "model", said))
    with pytest.raises(ConfigError, match=rf"{NAME} cannot be read: .*; mend it, or delete it"):
        sampling_of(model)


def test_config_show_says_where_it_comes_from(tmp_path: Path, policy: dict[str, Any]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps({"name": "r", "models": policy, "revise": {"critique_sampling": {"top_p": 1.0}}}))
    shown = CliRunner().invoke(app, ["config", "show", str(file)]).stdout
    source = f"{policy['policy']['path']}/{NAME} (models.policy)"
    assert f"# revise.answer_sampling: temperature 0.2, top_p 0.9, repetition_penalty 1.1 from {source}\n" in shown
    assert f"# revise.critique_sampling: temperature 0.2, repetition_penalty 1.1 from {source}\n" in shown
    assert "temperature: 0.2" in shown
    assert load(file).revise.answer_sampling == THEIRS
    again = tmp_path / "again.yaml"
    again.write_text(shown)  # what is shown is a recipe that says it all itself
    assert told(load(again)) == []


def test_an_adapter_is_sampled_as_its_base(tmp_path: Path, policy: dict[str, Any]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    said = {"base_model_name_or_path": policy["policy"]["path"], "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(said))
    place, found = sampling_of(ModelConfig(path=str(adapter)))
    assert place == f"{policy['policy']['path']}/{NAME}" and found["temperature"] == 0.2
