"""Parts of the benchmark on a real model: their recipes are valid, and their figures are right on made-up runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_model import data, labels, questions, recipe_run, same_words
from benchmarks.real_model.__main__ import PARTS
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import build
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE
from cai_ray.stages.preferences.label_comparisons import STAGE
from cai_ray.stages.preferences.pair_sources import PairSetConfig, read_pairs
from tests.finished_stages import finished, spec_of
from tests.stages.report.real_text_runs import write_real_run

needs_conversations = pytest.mark.skipif(
    not recipe_run.CONVERSATIONS.is_file(), reason=f"hh-rlhf is not at {recipe_run.CONVERSATIONS}"
)


def recipe_of(tmp_path: Path, sections: dict[str, Any], model: str) -> Any:
    models = {model: {"path": "HuggingFaceTB/SmolLM2-135M-Instruct", **recipe_run.MODEL}}
    made = {"name": "x", "output": str(tmp_path), "constitution": "harmlessness", "models": models, **sections}
    return build(made, "test")


@needs_conversations
def test_every_part_is_a_valid_recipe(tmp_path: Path) -> None:
    for way in labels.WAYS:
        made = recipe_of(tmp_path, labels.section(way, 0.01), "feedback")
        assert made.labels.pairs[0].limit >= 4
    assert recipe_of(tmp_path, data.sections(0.1), "policy").prompts.sources[0].limit == 13
    assert recipe_of(tmp_path, data.sections(1.0), "policy").ppo.num_steps == 4


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*none\.jsonl"):
        recipe_run.there(tmp_path / "none.jsonl")


@needs_conversations
def test_a_run_that_does_not_finish_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_RAY_CACHE", str(tmp_path))
    monkeypatch.setattr(recipe_run, "model_folder", lambda: "")
    with pytest.raises(ConfigError, match=r"cai-ray run .*x-[0-9a-f]{8}\.yaml ended with 2"):
        recipe_run.finished_run("x", {"multiple_choice": {"path": ""}})


@needs_conversations
def test_labels_are_held_against_what_people_chose(tmp_path: Path) -> None:
    section = labels.section("both_orders", 0.02)
    [source] = section["labels"]["pairs"]
    rows = []
    for number, pair in read_pairs(PairSetConfig.model_validate(source)):
        agrees = number % 4 != 0
        sides = (pair.chosen, pair.rejected) if agrees else (pair.rejected, pair.chosen)  # type: ignore[union-attr]
        reading = {"principle_id": "kind", "logprob_a": -0.5, "logprob_b": -1.0, "rationale": None, "judge": None}
        readings = [
            {**reading, "swapped": s, "prob_a": p, "num_verdicts": None} for s, p in ((False, 0.9), (True, 0.5))
        ]
        rows.append(
            {
                "pair_id": f"people:{number}",
                "prompt_id": f"prompt-{number}",
                "messages": pair.messages,  # type: ignore[union-attr]
                "kind": "red_team",
                "category": None,
                "split": "train",
                "chosen": sides[0],
                "rejected": sides[1],
                "chosen_is_a": True,
                "prob_chosen": 0.7,
                "prob_low": None,
                "prob_high": None,
                "order_flip_rate": 0.5,
                "label_source": "ai",
                "comparisons": readings,
                "flags": [],
                **{f"num_{what}_tokens": 1 for what in ("prompt", "cached", "output")},
            }
        )
    run = Storage(str(tmp_path))
    finished(spec_of(run / STAGE, STAGE, PAIR_IDS, "f"), PREFERENCE, rows)
    found = labels.against_people(run, "both_orders", 0.02)
    share = sum(number % 4 != 0 for number in range(len(rows))) / len(rows)
    assert found["pairs"] == len(rows) == 10
    assert found["agreement"]["value"] == pytest.approx(share, abs=1e-4)
    assert found["first_is_preferred_by"] == pytest.approx(0.2) and found["order_flip_rate"] == 0.5
    assert found["mean_probability_of_their_choice"]["value"] == pytest.approx(
        0.7 * share + 0.3 * (1 - share), abs=1e-4
    )


def test_rounds_and_rows_of_a_run(tmp_path: Path) -> None:
    run = write_real_run(tmp_path / "run", num_dialogues=12, num_rounds=2)
    found = data.accounts(run)
    assert found["revise"]["accounted_for"] and found["revise"]["rows_in"] == 12
    assert found["train_sft"] == {"finished": False}
    from cai_ray.artifacts.artifact import find

    revised = find(run / "revise")
    assert revised is not None
    rows = list(revised.rows())
    first, second = data.of_round(rows, 0), data.of_round(rows, 2)
    assert first["like_the_first_answer"] == 1.0 and first["unchanged"] is None and first["flagged"] == {}
    assert second["flagged"] == {"truncated": 1.0} and 0 < second["like_the_first_answer"] < 1


def test_where_two_answers_part() -> None:
    assert same_words.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert same_words.first_difference([1, 2, 3], [1, 2]) is None, "an end token more"
    assert same_words.first_difference([1, 2, 3], [1, 4, 3]) == 1
    assert same_words.first_difference([1, 2, 3, 4], [1]) == 1


def test_parts_are_modules_of_their_names() -> None:
    assert list(PARTS) == ["same_words", "detectors", "questions", "labels", "data"]
    assert questions.run is PARTS["questions"]
