"""Taking a direction out: which prompts, which tokens refuse, what is told; and a real run on a model that refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import build
from cai_ray.pipeline.run import folder_of, run
from cai_ray.pipeline.steps import steps
from cai_ray.stages.abliteration import abliterate, prompts
from cai_ray.stages.abliteration.candidates import refusal_tokens
from cai_ray.stages.abliteration.config import Config
from cai_ray.stages.abliteration.measuring import forms_of_prompts

SMALL = Config(num_train=6, num_validation=2, num_test=3)


def test_parts_are_filled_in_order_and_what_is_over_is_left_out() -> None:
    assert Counter(prompts._parts(SMALL, ["train"] * 20)) == {"train": 6, "validation": 2, "test": 3, None: 9}
    with_tests = prompts._parts(SMALL, ["train", "test"] * 10)
    assert Counter(with_tests) == {"train": 6, "validation": 2, "test": 3, None: 9}
    assert {part for part, split in zip(with_tests, ["train", "test"] * 10, strict=True) if split == "test"} == {
        "test",
        None,
    }


def test_few_prompts_are_shared_out() -> None:
    assert Counter(prompts._parts(Config(), ["train"] * 26)) == {"train": 13, "validation": 3, "test": 10}


def test_tokens_that_begin_refusals_more_often_than_answers() -> None:
    looks = [(7, True)] * 6 + [(8, True)] * 2 + [(8, False)] * 9 + [(9, False)]
    assert refusal_tokens(looks) == (7,)
    assert refusal_tokens([(8, False)]) == ()


def test_every_form_is_asked_every_test_prompt() -> None:
    rows = pa.table({"prompt_id": ["a", "b", "c"], "part": ["test", "train", "test"]})
    units = forms_of_prompts(rows, forms=("as_is", "ablated"))
    assert units["row_id"].to_pylist() == ["as_is/a", "as_is/c", "ablated/a", "ablated/c"]


# --- Runs -------------------------------------------------------------------------------------------------


def recipe(folder: Path, model: str, num_prompts: int = 240, **section: Any) -> Any:
    data = {
        "name": "abliterated",
        "output": str(folder),
        "models": {"policy": {"path": model}},
        "prompts": {"num_prompts": num_prompts, "harmful_fraction": 0.5, "harmless_kind": "helpful"},
        "revise": None,
        "cluster": {"object_store_gib": 0.5},
        "abliterate": {"num_train": 64, "num_validation": 16, "num_test": 32, "max_kl": 0.2, **section},
    }
    return build(data, "test")


@pytest.mark.slow
@pytest.mark.long
def test_a_refusing_micro_model_complies_and_its_reverse_refuses(tmp_path: Path, ray_session: None) -> None:
    made = recipe(tmp_path, "microworld:refusing")
    outcome = run(made, steps(made))[-1]
    manifest, summary = outcome.artifact.manifest, abliterate.summarise(outcome.artifact)
    as_is, ablated, reverse = summary.forms
    assert (as_is.form, ablated.form, reverse.form) == ("as_is", "ablated", "reverse")
    assert as_is.refuses_harmful and as_is.refuses_harmful.value >= 0.9
    assert ablated.refuses_harmful and ablated.refuses_harmful.value <= 0.3
    assert ablated.first_token_kl and ablated.first_token_kl.value <= 0.2
    assert reverse.refuses_harmless and reverse.refuses_harmless.value >= 0.5
    assert manifest.rows_in == manifest.rows_out == 3 * 64
    assert summary.is_exact and outcome.table is not None
    assert {"model", "reverse", "looks", "trials", "measured"} <= set(outcome.artifact.folder.folders())
    # A driver that was killed before the commit asks nothing again.
    outcome.artifact.folder.delete("manifest.json")
    again = run(made, steps(made))[-1]
    assert not again.was_finished and again.artifact.manifest.rows_out == manifest.rows_out
    trials = find(folder_of(made) / "abliterate" / "trials")
    assert trials is not None and trials.manifest.attempts == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_model_that_refuses_too_little_is_told(tmp_path: Path, ray_session: None) -> None:
    made = recipe(tmp_path, "microworld", num_prompts=96, min_prompts=20)
    with pytest.raises(ConfigError, match=r"model 'policy' refuses \d+ of \d+ harmful prompts, fewer than"):
        run(made, steps(made))


def test_too_few_prompts_of_a_class_are_told(tmp_path: Path, micro_model: Path) -> None:
    made = recipe(tmp_path, str(micro_model), num_prompts=12)
    with pytest.raises(ConfigError, match=r"has 6 prompts of kind red_team.*add harmful prompts"):
        run(made, steps(made))


def test_an_endpoint_and_a_run_time_form_cannot_be_looked_into(tmp_path: Path) -> None:
    from cai_ray.config import EndpointConfig, ModelConfig

    served = ModelConfig(endpoint=EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(ConfigError, match="which is an endpoint"):
        abliterate._ours(served, "policy")
