"""Pairs that ask a prompt of the held-out split are left out of training, counted, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cai_ray.artifacts.artifact import OpenStage, open_stage
from cai_ray.artifacts.derived import derive
from cai_ray.row_ids import PAIR_IDS, PROMPT_IDS
from cai_ray.rows import PROMPT
from cai_ray.stages.held_out import held_out_texts
from cai_ray.stages.inputs.sources import load
from cai_ray.stages.preferences.comparisons import PairOptions
from cai_ray.stages.preferences.pair_sources import HelpfulPairsConfig
from cai_ray.stages.preferences.training_pairs import write_pairs
from cai_ray.stages.prompt_sources import Config
from tests.field.load_prompts_runs import write_jsonl
from tests.finished_stages import spec_of
from tests.label_artifacts import STAGE, context, label


def encode(messages: list[dict[str, str]], answer: str) -> tuple[list[int], list[int]]:
    return [1] * len(messages), [2] * len(answer)


def test_human_pairs_on_held_out_prompts_are_left_out(tmp_path: Path) -> None:
    asked = [f"Which soup suits day {k}?" for k in range(40)]
    prompts = write_jsonl(tmp_path / "soups.jsonl", [{"prompt": text} for text in asked])
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl", [{"prompt": text, "chosen": "Leek.", "rejected": "None at all."} for text in asked]
    )
    run = context(tmp_path / "run", "no-model", "train", [label(k) for k in range(1, 8) if k % 4])
    loaded = list(load(Config(path=str(prompts), test_fraction=0.5), 0))
    derive(spec_of(run.folder("load_prompts"), "load_prompts", PROMPT_IDS), [loaded], PROMPT)
    held_out = held_out_texts(run)
    num_test = sum(end.row["split"] == "test" for end in loaded)
    assert len(held_out) == num_test > 10

    options = PairOptions(helpful_pairs=(HelpfulPairsConfig(path=str(pairs)),), eval_fraction=0.0)
    stage = open_stage(spec_of(run.folder("train"), "train", PAIR_IDS))
    assert isinstance(stage, OpenStage)
    made = write_pairs(stage, options, run.artifact(STAGE), encode, 4096, 1, held_out)
    manifest = stage.commit(made.input_ids).manifest
    assert manifest.rows_in == 46 and manifest.rows_dropped == {}
    assert manifest.rows_left_out == {"held_out": num_test} and made.num_train == 46 - num_test


def test_pairs_that_are_for_evaluation_may_ask_them(tmp_path: Path) -> None:
    run = context(tmp_path, "no-model", "train", [label(k) for k in range(1, 8) if k % 4])
    pairs = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Which soup?", "chosen": "Leek.", "rejected": "None."}])
    (loaded,) = load(Config(path=str(pairs), split="test"), 0)
    derive(spec_of(run.folder("load_prompts"), "load_prompts", PROMPT_IDS), [[loaded]], PROMPT)
    options = PairOptions(helpful_pairs=(HelpfulPairsConfig(path=str(pairs), split="test"),), eval_fraction=0.0)
    stage = open_stage(spec_of(run.folder("train"), "train", PAIR_IDS))
    assert isinstance(stage, OpenStage)
    made = write_pairs(stage, options, run.artifact(STAGE), encode, 4096, 1, held_out_texts(run))
    assert made.num_eval == 1 and stage.commit(made.input_ids).manifest.rows_left_out == {}


def test_a_run_without_prompts_holds_nothing_out(tmp_path: Path) -> None:
    run = context(tmp_path, "no-model", "train", [label(1)])
    assert held_out_texts(replace(run, seed=4)) == frozenset()
