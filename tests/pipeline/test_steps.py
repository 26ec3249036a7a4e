"""Which stages a recipe asks for, and the models that its stages train. No Ray, no vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import StageConfig
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import settings
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import OWN_DATA, Recipe, build, limited
from cai_ray.pipeline.steps import SECTION_OF, steps
from tests.small_recipes import SERVER, fields, recipe


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return fields(tmp_path)


def stages(made: Recipe) -> list[str]:
    return [step.stage for step in steps(made)]


ALL = {
    "sft": {},
    "pairs": {},
    "labels": {},
    "preference_model": {},
    "dpo": {},
    "evaluate": {"policies": ["policy", "sl_cai", "dpo"]},
}


def test_sections_and_steps_are_listed_in_one_order(data: dict[str, Any], tmp_path: Path) -> None:
    """What a message calls a stage's section is where the recipe has that stage's config."""
    asked = tmp_path / "items.jsonl"
    asked.write_text("{}")
    every = {**ALL, **{name: {} for name in ("expand", "abliterate", "score_rounds", "self_critique", "ppo", "report")}}
    every["multiple_choice"] = {"path": str(asked)}
    made = recipe(data, **every)
    found = steps(made)
    listed = [stage for stage in SECTION_OF if stage not in ("load_pairs", "load_ppo_prompts")]  # of keys, not sections
    assert [step.stage for step in found] == [stage for stage in listed if getattr(made, SECTION_OF[stage])]
    assert [getattr(made, SECTION_OF[step.stage]) for step in found] == [step.config for step in found]
    sections = [name for name in type(made).model_fields if isinstance(getattr(made, name), StageConfig)]
    assert [SECTION_OF[step.stage] for step in found] == sections


def test_a_section_in_the_recipe_is_a_stage_of_the_run(data: dict[str, Any]) -> None:
    assert stages(recipe(data)) == ["load_prompts", "revise"]
    assert stages(recipe(data, **ALL)) == [
        "load_prompts",
        "revise",
        "train_sft",
        "sample_pairs",
        "label_comparisons",
        "train_preference_model",
        "train_dpo",
        "evaluate",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"labels": {}}, r"label_comparisons reads what sample_pairs writes.*section \(pairs\)"),
        ({"pairs": {}, "preference_model": {}}, r"train_preference_model reads.*section \(labels\)"),
    ],
)
def test_a_stage_without_its_input_is_refused(data: dict[str, Any], sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        steps(recipe(data, **sections))


def test_models_that_the_run_trains_inherit_from_the_model_they_start_from(data: dict[str, Any]) -> None:
    made = recipe(data, **ALL)
    context = pipeline.prepare(made, steps(made))
    assert {name: (t.stage, t.base_name) for name, t in context.trained.items()} == {
        "sl_cai": ("train_sft", "policy"),
        "preference_model": ("train_preference_model", "policy"),
        "dpo": ("train_dpo", "policy"),
    }
    assert context.model("feedback") == context.model("policy"), "the policy labels where no other model is named"
    with pytest.raises(ConfigError, match="'train_sft' has no output"):
        context.model("sl_cai")


def test_a_model_is_asked_only_after_it_is_there(data: dict[str, Any]) -> None:
    early = recipe(data, revise={"model": "sl_cai"}, sft={})
    with pytest.raises(ConfigError, match=r"revise uses model 'sl_cai'.*name another in revise"):
        pipeline.prepare(early, steps(early))
    named = recipe(data, models={"policy": SERVER, "sl_cai": SERVER}, sft={})
    with pytest.raises(ConfigError, match="trains model 'sl_cai', which models names too"):
        pipeline.prepare(named, steps(named))
    brought = recipe(data, models={"policy": SERVER, "sl_cai": SERVER}, pairs={})
    assert pipeline.prepare(brought, steps(brought)).trained == {}


def test_a_change_before_a_trained_model_changes_what_is_made_with_it(data: dict[str, Any]) -> None:
    def fingerprints(**changes: Any) -> dict[str, str]:
        made = recipe(data, **{**ALL, **changes})
        return dict(pipeline.prepare(made, steps(made)).fingerprints)

    base, changed = fingerprints(), fingerprints(sft={"revision_index": "last"})
    same = {stage for stage in base if base[stage] == changed[stage]}
    assert same == {"load_prompts", "revise"}
    assert fingerprints(sft={"workers": {"num_workers": 2}}) == base


OWN = {"path": "own.jsonl"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"sft": {"examples": [OWN]}}, ["train_sft"]),
        ({"labels": {"pairs": [OWN]}}, ["load_pairs", "label_comparisons"]),
        ({"preference_model": {"preferences": [OWN]}}, ["train_preference_model"]),
        ({"dpo": {"preferences": [OWN]}}, ["train_dpo"]),
        ({"ppo": {"prompts": OWN}}, ["load_ppo_prompts", "train_ppo"]),
        (
            {"labels": {"pairs": [OWN]}, "preference_model": {}},
            ["load_pairs", "label_comparisons", "train_preference_model"],
        ),
    ],
    ids=str,
)
def test_own_data_stands_in_place_of_the_stages_before_it(sections: dict[str, Any], expected: list[str]) -> None:
    made = build({"name": "own", "models": {"policy": SERVER}, **sections}, "own.yaml")
    assert (made.prompts, made.revise) == (None, None)
    assert stages(made) == expected


def test_and_beside_what_the_recipe_names(data: dict[str, Any]) -> None:
    examples, preferences = {"examples": [OWN]}, {"preferences": [OWN]}
    own = {"prompts": {**OWN}, "revise": {}, "sft": examples, **{k: ALL[k] for k in ("pairs", "labels")}}
    found = {step.stage: step.reads for step in steps(recipe(data, **own, preference_model=preferences))}
    assert found["train_sft"] == ("revise",)
    assert found["train_preference_model"] == ("label_comparisons",)
    both = recipe(data, prompts=data["prompts"], ppo={"prompts": OWN, "preference_model": "policy", "model": "policy"})
    assert [step.reads for step in steps(both) if step.stage == "train_ppo"] == [("load_ppo_prompts",)]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sft": {}, "revise": None}, r"train_sft reads what revise writes.*section \(revise\), or .*sft\.examples"),
        ({"preference_model": {}}, r"section \(labels\), or bring your own: preference_model\.preferences"),
        ({"labels": {}}, r"section \(pairs\), or bring your own: labels\.pairs"),
        ({"prompts": None, "ppo": {}}, r"section \(prompts\), or bring your own: ppo\.prompts"),
        ({"prompts": None, "revise": None, "evaluate": {}}, r"evaluate reads what load_prompts.*section \(prompts\)$"),
        ({"prompts": {}, "pairs": {}, "labels": {"pairs": [OWN]}}, r"has both; remove one"),
    ],
    ids=str,
)
def test_what_is_missing_and_where_to_put_it(data: dict[str, Any], sections: dict[str, Any], message: str) -> None:
    made = recipe(data, **{"revise": None, **sections})
    with pytest.raises(ConfigError, match=message):
        steps(made)


def test_data_of_ones_own_changes_no_other_fingerprint(data: dict[str, Any]) -> None:
    """A key that a recipe does not set is not in its settings: runs from before there was one stay finished."""
    for section in ("sft", "labels", "preference_model", "dpo", "ppo"):
        made = getattr(recipe(data, **{section: {}}), section)
        assert OWN_DATA[section] not in settings(made)


def test_a_trial_takes_less_of_everything(data: dict[str, Any]) -> None:
    sets = [OWN, {**OWN, "name": "b", "limit": 3}]
    own = {
        "prompts": data["prompts"],
        "sft": {"examples": sets},
        "ppo": {"prompts": OWN},
    }
    found = limited(recipe(data, **own), 20)
    assert found.prompts and found.sft and found.ppo and found.ppo.prompts
    assert [found.prompts.limit, *(one.limit for one in found.sft.examples), found.ppo.prompts.limit] == [20, 20, 3, 20]
