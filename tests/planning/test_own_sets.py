"""Plans of recipes that begin with data of one's own, whether it is here or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import Recipe, build, load
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import plan

MODELS = {"policy": {"path": "Qwen/Qwen2.5-1.5B-Instruct"}}


def rows_in(recipe: Recipe) -> dict[str, float]:
    made = plan(recipe, hardware("2xH100"))
    assert made.fits, made.problems
    return {stage.planned.stage: round(stage.planned.rows_in) for stage in made.stages}


def test_sets_that_are_not_here_are_as_large_as_their_limits() -> None:
    assert rows_in(load("preference-model-only")) == {"train_preference_model": 91038, "report": 0}
    assert rows_in(load("ppo-from-hub"))["load_ppo_prompts"] == 20000
    hub = {"path": "hf://org/set", "limit": 5000}
    sections = {
        "sft": {"examples": [hub]},
        "labels": {"pairs": [hub]},
        "dpo": {"preferences": [hub], "model": "policy"},
    }
    found = rows_in(build({"name": "x", "models": MODELS, **sections}, "x"))
    assert found == {"train_sft": 5000, "load_pairs": 5000, "label_comparisons": 5000, "train_dpo": 10000}


def test_sets_that_are_here_are_read(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"Q{k}", "chosen": f"Yes, {k}.", "rejected": f"No, {k}."}) + "\n" for k in range(70)
        )
    )
    here = [{"path": str(file)}]
    sections = {"sft": {"examples": here}, "labels": {"pairs": here}, "dpo": {"preferences": here, "model": "policy"}}
    found = rows_in(build({"name": "x", "models": MODELS, **sections}, "x"))
    assert found == {"train_sft": 70, "load_pairs": 70, "label_comparisons": 70, "train_dpo": 140}


def test_a_hub_set_without_a_limit_is_of_unknown_size() -> None:
    made = build({"name": "x", "models": MODELS, "labels": {"pairs": [{"path": "hf://org/set"}]}}, "x")
    with pytest.raises(ConfigError, match="is not read for a plan; set its limit"):
        rows_in(made)
