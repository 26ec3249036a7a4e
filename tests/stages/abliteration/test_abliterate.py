"""Taking a direction out: which prompts, which tokens refuse, what is told; and a real run on a model that refuses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cai_ray.algorithms.directions import Candidate
from cai_ray.artifacts.storage import Storage
from cai_ray.config import EndpointConfig, ModelConfig
from cai_ray.engines.backends.in_process.probe import ProbeBackend
from cai_ray.engines.models.residual.intervention import read_intervention
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import build
from cai_ray.pipeline.run import run
from cai_ray.pipeline.steps import steps
from cai_ray.stages.abliteration import abliterate, measuring, prompts
from cai_ray.stages.abliteration.candidates import Found, refusal_tokens
from cai_ray.stages.abliteration.config import Config
from cai_ray.stages.abliteration.measuring import forms_of_prompts
from tests.architectures import save_architecture

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
@pytest.mark.parametrize("name", ["LlamaConfig", "Gemma2Config"])
def test_what_is_written_is_what_was_measured(tmp_path: Path, name: str) -> None:
    """Every form of a random model: each model's folder, loaded anew, answers as its form did by hooks."""
    model = ModelConfig(path=str(save_architecture(tmp_path / "base", name)))
    difference = np.random.default_rng(0).normal(size=64)
    found = Found(Candidate(2, -1, -1.0, 1.0, 0.01), difference, (5,), 9, 10)
    changes, exact = abliterate._changes(Config(), found), name == "LlamaConfig"
    if exact:
        del changes["ablated_weights"]
    folder = Storage(str(tmp_path / "made"))
    abliterate._write(folder, model, Config(), found, changes, exact)
    units = forms_of_prompts(pa.table(PROBED), forms=("as_is", *changes)).to_pylist()
    measured = asked(ProbeBackend(model, dict(changes)), units)
    for form, change in changes.items():
        made = tmp_path / "made" / abliterate.FOLDERS[form]
        kept = read_intervention(made)
        assert (kept is not None) == (form == "reverse" or (form == "ablated" and not exact))
        backend = ProbeBackend(ModelConfig(path=str(made)), {"as_is": change, **({form: kept} if kept else {})})
        again = asked(backend, [{**unit, "form": form if kept else "as_is"} for unit in units if unit["form"] == form])
        ours = [row for row in measured if row["form"] == form]
        assert [row["response"] for row in again] == [row["response"] for row in ours]
        assert all(row["first_token_kl"] > 0 for row in ours)
    figures = measuring.summarise_rows(measured)
    assert [one.form for one in figures] == ["as_is", *sorted(changes)]
    assert figures[0].first_token_kl is not None and figures[0].first_token_kl.value == 0
    assert (figures[-2 if exact else 2].gap_kl is not None) == (not exact)
    said = json.loads((tmp_path / "made" / "found.json").read_text())
    assert (said["layer"], said["is_exact"], said["num_refused"]) == (2, exact, 9)


PROBED = {
    "prompt_id": ["a", "b", "c"],
    "part": ["test"] * 3,
    "side": ["harmful", "harmless", "harmless"],
    "category": [None] * 3,
    "messages": [[{"role": "user", "content": text}] for text in ("One?", "Two, three?", "Four")],
}


def asked(backend: ProbeBackend, units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async def pass_on(send: Any) -> Any:
        return await send()

    async def main() -> list[dict[str, Any]]:
        await backend.start()
        doors = [backend.open(unit["row_id"], lambda k: 0, pass_on) for unit in units]
        config = Config(max_tokens=8)
        return await asyncio.gather(
            *(measuring.measure(unit, door, config=config) for unit, door in zip(units, doors, strict=True))
        )

    return asyncio.run(main())


@pytest.mark.slow
@pytest.mark.long
def test_a_refusing_micro_model_complies_without_its_direction_and_its_reverse_refuses(
    tmp_path: Path, ray_session: None
) -> None:
    made = recipe(tmp_path, "microworld:refusing")
    [artifact] = [one.artifact for one in run(made, steps(made)) if one.stage == abliterate.STAGE]
    as_is, ablated, reverse = (
        next(one for one in abliterate.summarise(artifact).forms if one.form == form)
        for form in ("as_is", "ablated", "reverse")
    )
    assert as_is.refuses_harmful.value >= 0.9 and as_is.refuses_harmless.value <= 0.1
    assert ablated.refuses_harmful.value <= 0.3 and ablated.first_token_kl.value <= 0.2
    assert reverse.refuses_harmless.value >= 0.7


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
    served = ModelConfig(endpoint=EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(ConfigError, match="which is an endpoint"):
        abliterate._ours(served, "policy")
