"""What is typed for a model, and the model it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_ray.errors import ConfigError
from cai_ray.pipeline.model_names import named_model


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    sections = {
        "name": "run",
        "output": str(tmp_path),
        "models": {
            "policy": {"path": "/models/base", "max_model_len": 512, "tokenizer": "/models/tokenizer"},
            "far": {"path": "x", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}},
        },
        "sft": {},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    name, model = named_model(str(folder))
    assert (name, model.path) == ("mine", str(folder / "model"))  # a stage's folder stands for the model inside
    assert named_model(str(folder / "model"))[0] == "mine"
    (folder / "config.json").touch()
    assert named_model(str(folder))[1].path == str(folder)


def test_a_hub_id() -> None:
    name, model = named_model("org/name-7B")
    assert name == model.path == "org/name-7B"


def test_a_model_that_the_recipe_names(recipe: Path) -> None:
    name, model = named_model(f"{recipe}:policy")
    assert (name, model.path, model.max_model_len) == ("policy", "/models/base", 512)
    assert named_model(f"{recipe}:feedback")[1] == model  # the policy labels where no other is named
    assert named_model(f"{recipe}:far")[1].endpoint is not None


def test_what_is_not_there(recipe: Path) -> None:
    for typed, told in {
        f"{recipe}": "say which of its models",
        f"{recipe}:other": "has no model 'other'; it has far, policy, feedback, sl_cai",
        f"{recipe}:sl_cai": "stage 'train_sft' has no output",
        "./nowhere": "there is no folder",
        "no.yaml:policy": "does not exist",
    }.items():
        with pytest.raises(ConfigError, match=told):
            named_model(typed)
