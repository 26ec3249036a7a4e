"""`cai-ray run RECIPE --limit 20` for every recipe that comes along, on made-up files of its layouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cai_ray import shelf
from cai_ray.pipeline.recipe import load
from cai_ray.stages.prompt_sources import PromptSourceConfig
from tests.field.load_prompts_runs import NOBODY, load_prompts, manifest_of

# The sets of the recipes mixed by hand are large; these are large enough for a limit of 20 to leave most of them out.
NUM = 80


def record(layout: str, number: int) -> dict[str, Any]:
    asked = f"\n\nHuman: What grows in {layout} garden {number}, and what beside pond {number * 7}?"
    if layout == "hh_rlhf":
        return {"chosen": f"{asked}\n\nAssistant: Reeds.", "rejected": f"{asked}\n\nAssistant: Who knows?"}
    if layout == "red_team_attempts":
        return {"transcript": f"{asked}\n\nAssistant: Reeds.", "rating": 0.0, "task_description": "Ask about gardens"}
    return {"prompt": asked.removeprefix("\n\nHuman: ")}


def make_up(source: PromptSourceConfig, folder: Path) -> None:
    file = folder / source.path
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(record(source.layout, number)) + "\n" for number in range(NUM)).encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


WITH_PROMPTS = [name for name, file in sorted(shelf.available("recipe").items()) if load(file).prompts is not None]
# The others begin at a later stage, with data of one's own: each runs whole in tests/cluster/test_own_data.py.


@pytest.mark.parametrize("name", WITH_PROMPTS)
def test_a_trial_of_twenty_prompts_ends_well(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(shelf.available("recipe")[name])
    assert recipe.prompts is not None
    for source in recipe.prompts.all_sources():
        if source.path != "microworld":
            make_up(source, tmp_path)
    unused = [f"{section}=null" for section in SECTIONS if getattr(recipe, section) is not None]
    given = [f"models={json.dumps(NOBODY)}", f"output={tmp_path}/runs", "name=run", *unused]
    code, output = load_prompts(name, "--limit", "20", *(word for each in given for word in ("--set", each)))
    assert code == 0, output
    manifest = manifest_of(tmp_path)
    assert manifest.rows_out == 20
    assert manifest.rows_in == 20 + manifest.num_dropped + manifest.num_left_out
    assert set(manifest.rows_left_out) <= {"limit"}


# What trains or scores needs models with weights, which are not here; load_prompts does not read them.
SECTIONS = ("sft", "pairs", "labels", "preference_model", "dpo", "score_rounds", "ppo", "multiple_choice", "evaluate")
