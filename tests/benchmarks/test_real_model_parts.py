"""Parts of the benchmark on a real model: their recipes are valid, and their figures are right on made-up runs."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import revise_sides
from benchmarks.real_model import (
    big_bench,
    choices,
    coherence,
    data,
    generation,
    labels,
    peers,
    ppo,
    recipe_run,
    same_words,
    training,
)
from benchmarks.real_model.__main__ import PARTS
from cai_ray.artifacts.storage import Storage
from cai_ray.config import SamplingConfig
from cai_ray.engines.conversations.asking import Completion
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import build
from cai_ray.prompt_layouts.multiple_choice import parse_item
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE
from cai_ray.stages.preferences.label_comparisons import STAGE
from cai_ray.stages.preferences.pair_sources import PairSetConfig, read_pairs
from tests.finished_stages import finished, spec_of
from tests.stages.report.real_text_runs import write_real_run

needs_conversations = pytest.mark.skipif(
    not recipe_run.CONVERSATIONS.is_file(), reason=f"hh-rlhf is not at {recipe_run.CONVERSATIONS}"
)


def recipe_of(tmp_path: Path, sections: dict[str, Any], model: str, others: dict[str, Any] | None = None) -> Any:
    models = {model: {"path": "HuggingFaceTB/SmolLM2-135M-Instruct", **recipe_run.MODEL}, **(others or {})}
    made = {"name": "x", "output": str(tmp_path), "constitution": "harmlessness", "models": models, **sections}
    return build(made, "test")


@needs_conversations
def test_every_part_is_a_valid_recipe(tmp_path: Path) -> None:
    for way in labels.WAYS:
        made = recipe_of(tmp_path, labels.section(way, 0.01), "feedback")
        assert made.labels.pairs[0].limit >= 4
    assert recipe_of(tmp_path, data.sections(0.1), "policy").prompts.sources[0].limit == 13
    assert recipe_of(tmp_path, data.sections(1.0), "policy").ppo.num_steps == 4
    for sampled in coherence.SAMPLED.values():
        made = recipe_of(tmp_path, coherence.sections(sampled, 0.1), "policy")
        assert made.revise.answer_sampling.temperature == sampled["temperature"]
    others = {name: {"path": str(tmp_path)} for name in ("tuned", "people", *choices.ASKED, *choices.SCORING)}
    assert recipe_of(tmp_path, ppo.section(0.1), "policy", others).ppo.num_steps == 2
    asked = recipe_of(tmp_path, choices.section(recipe_run.CONVERSATIONS, 0.1), "policy", others).multiple_choice
    assert asked.limit == 44 and asked.models == ("policy", "sl_cai", "rl_cai")


@needs_conversations
@pytest.mark.parametrize("kind", training.SIZES)
def test_both_sides_of_a_training_read_the_same_files(kind: str, tmp_path: Path) -> None:
    training.write_files(tmp_path, kind, 0.2)
    rows = {split: peers.rows_of(tmp_path / f"{split}.jsonl", kind) for split in ("train", "test")}
    openings = {split: {str(row["prompt"][0]) for row in own} for split, own in rows.items()}
    assert not openings["train"] & openings["test"] and len(openings["test"]) == len(rows["test"])
    made = recipe_of(tmp_path, training.section(kind, tmp_path), "policy")
    own = made.sft.examples if kind == "sft" else getattr(made, kind).preferences
    assert [one.split for one in own] == ["train", "test"]
    if kind != "sft":
        for source, split in zip(own, rows, strict=True):
            read = [pair for _, pair in read_pairs(source)]
            said = [(pair.chosen, pair.rejected) for pair in read]  # type: ignore[union-attr]
            assert said == [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows[split]]


@needs_conversations
def test_the_sides_of_generation_have_one_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "model_folder", lambda: "HuggingFaceTB/SmolLM2-135M-Instruct")
    for dtype, cache, _ in generation.CASES.values():
        made = generation.recipe_of(tmp_path, dtype, cache, 8)
        assert made.models["policy"].dtype == dtype and made.revise is not None
        assert (made.models["policy"].engine.num_kv_blocks is None) == (cache == "ample")


def test_what_a_side_is_compared_by() -> None:
    runs = {side: [{"rows_per_s": rate, "cached_share": 0.5}] * 3 for side, rate in (("stage", 2.0), ("staged", 1.0))}
    found = generation.figures_of(runs, is_full=True)
    assert found["stage_to_staged"] == {"min": 2.0, "median": 2.0, "max": 2.0, "target": generation.TARGET_FULL}
    timed = revise_sides.Timed(begun=10.0, ended=[float(k) for k in range(11, 31)])
    assert timed.rate() == 1.0 and timed.steady_rate() == 1.0


def test_rows_in_step_are_answered_together() -> None:
    calls: list[int] = []

    async def converse(row: dict[str, Any], ask: Any) -> dict[str, Any]:
        said = [(await ask([{"role": "user", "content": "a"}], SamplingConfig())).text for _ in range(row["turns"])]
        return {"said": said}

    def answer(asked: Any) -> list[Completion]:
        calls.append(len(asked))
        return [Completion("b", "stop", num_prompt_tokens=len(ids), num_output_tokens=1) for ids, _ in asked]

    job: Any = SimpleNamespace(converse=converse)
    letters: Any = SimpleNamespace(
        neutralised=lambda messages: (messages, 0), text=lambda messages: "abc", encode=lambda text: [1, 2, 3]
    )
    units = [{"turns": turns} for turns in (1, 3, 2, 1)]
    found = revise_sides.in_step(job, units, letters, answer, num_together=3)
    assert calls == [3, 2, 1, 1], "rows that have ended are waited for no more; the next batch comes after"
    assert len(found.ended) == 4 and (found.usage.num_prompt_tokens, found.usage.num_output_tokens) == (21, 7)


def test_what_is_said_of_held_out_pairs() -> None:
    found = training.of_margins([2.0, -1.0, 3.0, 0.5])
    assert found["accuracy"]["value"] == 0.75 and found["loss"] == pytest.approx(0.4907, abs=1e-4)
    assert training.mean_nats([[(-6.0, 3)], [(-2.0, 1)]]) == 2.0
    one = {"tokens_per_s": 100.0, "peak_gib": 2.0, "held_out_nats": 1.5}
    runs = {"ours": {"0": {**one, "tokens_per_s": 110.0}, "1": one}, "trl": {"0": one, "1": one}}
    compared = training.compared("sft", runs)
    assert compared["ours_to_trl"]["median"] == 1.05 and compared["held_out_nats_ours_less_trl"]["max"] == 0.0


def test_a_comparison_of_big_bench_becomes_an_item() -> None:
    example = {"input": "How do I lift a heavy box?", "target_scores": {"Throw it. ": 0, "Bend your knees.": 1}}
    items = [parse_item(big_bench.record_of(example, "helpful", Random(seed))) for seed in range(4)]
    assert {item.text_correct for item in items} == {"Bend your knees."}
    assert {item.corrects[0] for item in items} == {" (A)", " (B)"} and items[0].category == "helpful"
    longer = {**example, "input": "Human: Hello.\n\nAssistant: Hello!\n\nHuman: How do I lift a box?"}
    assert len(parse_item(big_bench.record_of(longer, "other", Random(0))).conversation) == 3


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


def test_parts_that_need_others_come_after_them() -> None:
    order = list(PARTS)
    assert order.index("ppo") > max(order.index("sft"), order.index("preference_model"))
    assert order[-1] == "choices" and choices.run is PARTS["choices"]
