from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_ray.errors import ConfigError
from cai_ray.fingerprint import settings
from cai_ray.pipeline.recipe import Recipe, apply_overrides, build, dump, load

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_loads_and_round_trips(path: Path) -> None:
    recipe = load(path)
    assert build(yaml.safe_load(dump(recipe)), "dump") == recipe


def test_overrides_are_yaml_and_nested() -> None:
    data = {"name": "x", "revise": {"num_revisions": 4}}
    changed = apply_overrides(
        data, ["revise.num_revisions=2", "prompts.path=a.jsonl", "models.policy.path=m", "seed=7"]
    )
    recipe = build(changed, "test")
    assert (recipe.revise.num_revisions, recipe.prompts.path, recipe.seed) == (2, "a.jsonl", 7)
    assert recipe.models["policy"].path == "m"
    assert data == {"name": "x", "revise": {"num_revisions": 4}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "revize": {}}, "revize: unknown key; did you mean 'revise'?"),
        (
            {"name": "x", "revise": {"num_revision": 2}},
            "revise.num_revision: unknown key; did you mean 'num_revisions'?",
        ),
        ({"name": "x", "models": {"policy": {"pth": "m"}}}, "models.policy.pth: unknown key; did you mean 'path'?"),
        ({"name": "x", "revise": {"num_revisions": -1}}, "revise.num_revisions = -1: Input should be greater than"),
        ({"name": "a/b"}, "name = "),
        ({"name": "x", "models": {"feedback": {}}}, "no `policy`"),
        ({}, "name"),
    ],
)
def test_a_mistake_names_field_value_and_rule(data: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(data, "test.yaml")
    assert message in str(error.value)
    assert "test.yaml" in str(error.value)


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build({"name": "x", "sed": 1, "revise": {"truncated": "perhaps"}}, "test")
    assert str(error.value).count("\n  - ") == 2


@pytest.mark.parametrize("override", ["seed", "=3", "seed.x=1", "seed=[1"])
def test_a_bad_override_is_one_message(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"seed": 1}, [override])


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ("a: [", "not YAML"), ("- 1", "not a mapping")]
)
def test_an_unreadable_recipe_is_one_message(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_settings_leave_out_what_only_changes_speed() -> None:
    def revise(**changes: object) -> dict:
        return settings(Recipe.model_validate({"name": "x", "revise": changes}).revise)

    assert revise(scaling={"max_engines": 3}) == revise()
    assert revise(max_dropped_fraction=0.9) == revise()
    assert revise(num_revisions=3) != revise()
