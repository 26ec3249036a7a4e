"""Whole plans: every recipe that comes along, what is finished already, what does not fit. Nothing is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.config import ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import build, load
from cai_ray.pipeline.steps import SECTION_OF
from cai_ray.planning.conversations import IDENTICAL_IN_MICROWORLD
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import COUNTS, RunPlan, StagePlan, as_json, plan
from cai_ray.planning.planners import PLANNERS
from cai_ray.planning.sizes import KNOWN
from tests.runs import write_jsonl

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"
FULL = ("gemma-2-9b", "llama-3.1-8b", "mistral-7b", "qwen2.5-3b", "qwen2.5-7b", "r1-distill-llama-8b")


def stages(made: RunPlan) -> dict[str, StagePlan]:
    return {stage.planned.stage: stage.planned for stage in made.stages}


def recipe(tmp_path: Path, **sections: Any) -> Any:
    data = {"name": "x", "output": str(tmp_path), "constitution": "microworld", **sections}
    return build(data, "test")


def test_every_kind_of_stage_can_be_planned() -> None:
    assert set(PLANNERS) >= set(SECTION_OF)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_every_full_recipe_fits_on_eight_h200_and_says_what_it_costs(name: str) -> None:
    made = plan(load(RECIPES / f"{name}.yaml"), hardware("8xH200"), use_finished=False)
    assert made.problems == []
    found = stages(made)
    assert {"revise", "train_sft", "label_comparisons", "train_preference_model", "train_ppo", "report"} <= set(found)
    for stage in ("revise", "sample_pairs", "label_comparisons", "evaluate"):
        used = found[stage].used
        assert 0 < used.cached_tokens < used.prompt_tokens
        assert used.output_tokens > 0
    assert 600 < sum(stage.work.seconds for stage in found.values()) < 86_400


def test_the_recipe_of_a_small_real_model_takes_a_laptop_about_an_hour() -> None:
    made = plan(load(RECIPES / "smollm2-135m.yaml"), hardware(None), use_finished=False)
    assert made.problems == []
    assert {"revise", "train_sft", "train_preference_model", "train_ppo", "evaluate"} <= set(stages(made))
    assert 1_200 < sum(stage.work.seconds for stage in stages(made).values()) < 3_900


def test_rows_are_counted_by_kind_and_split(tmp_path: Path) -> None:
    made = plan(
        recipe(
            tmp_path,
            prompts={"path": "microworld", "num_prompts": 400, "harmless_kind": "helpful", "test_fraction": 0.5},
            revise={"num_revisions": 2, "helpful_samples": 2},
            sft={"eval_fraction": 0.0},
            pairs={"samples_per_prompt": 3, "strategy": "all"},
            labels={"principles_per_pair": 2},
            evaluate={"limit": 100, "policies": ["policy", "sl_cai"]},
        ),
        hardware(None),
    )
    found = stages(made)
    red, helpful = 250, 150
    assert found["revise"].rows_out == pytest.approx(red + 2 * helpful)
    assert found["revise"].used.requests == pytest.approx(5 * red + 2 * helpful)
    assert found["train_sft"].rows_in == pytest.approx(2 * red + 2 * helpful)
    pairs = 3 * red * (1 - IDENTICAL_IN_MICROWORLD)
    assert found["sample_pairs"].rows_out == pytest.approx(pairs)
    assert found["label_comparisons"].used.requests == pytest.approx(4 * pairs)
    assert found["label_comparisons"].used.output_tokens == found["label_comparisons"].used.requests
    assert found["evaluate"].rows_out == pytest.approx(200)


def test_thinking_costs_its_own_tokens_and_trained_policies_answer_at_once(tmp_path: Path) -> None:
    def plan_with(**thinking: Any) -> dict[str, StagePlan]:
        policy = {"path": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", **thinking}
        sections = {"revise": {"num_revisions": 1}, "sft": {}, "evaluate": {"split": "all", "policies": ["sl_cai"]}}
        return stages(plan(recipe(tmp_path, models={"policy": policy}, **sections), hardware("1xH100")))

    plain, aloud = plan_with(), plan_with(thinking={"max_tokens": 1000, "opened_by_template": True})
    more = aloud["revise"].used.output_tokens - plain["revise"].used.output_tokens
    assert more == pytest.approx(aloud["revise"].used.requests * 500)
    assert aloud["evaluate"].used.output_tokens < 1.1 * plain["evaluate"].used.output_tokens


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    big = recipe(
        tmp_path,
        models={"policy": {"path": "Qwen/Qwen2.5-72B-Instruct"}},
        sft={"workers": {"num_workers": 4}, "optim": {"batch_size": 32}},
    )
    problems = "\n".join(plan(big, hardware("2xA100")).problems)
    assert "revise needs" in problems
    assert "train_sft wants 4 GPUs, there are 2" in problems


def test_a_file_that_is_not_here_needs_a_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="does not exist"):
        plan(recipe(tmp_path, prompts={"path": path}), hardware(None))
    with pytest.raises(ConfigError, match="set its `limit`"):
        plan(recipe(tmp_path, prompts={"path": "hf://org/name"}), hardware(None))
    sources = [{"path": path, "limit": 70}, {"path": "hf://org/name", "limit": 30}]
    found = plan(recipe(tmp_path, prompts={"sources": sources}), hardware(None))
    assert stages(found)["load_prompts"].rows_out == pytest.approx(100)
    assert any("none was not read: 70 prompts" in line for line in found.assumptions)


def test_the_command_prints_the_table_its_assumptions_and_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    data = {"name": "x", "output": str(tmp_path), "prompts": {"path": "microworld", "num_prompts": 20}}
    path.write_text(json.dumps(data))
    shown = CliRunner().invoke(app, ["plan", str(path), "--gpus", "2xA10G"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for text in ("plan on 2xA10G", "revise", "GPU-h", "$1/h", "6,400 tokens/s"):
        assert text in shown.output
    read = CliRunner().invoke(app, ["plan", str(path), "--json"])
    assert [stage["planned"]["stage"] for stage in json.loads(read.output)["stages"]] == ["load_prompts", "revise"]
    wrong = CliRunner().invoke(app, ["plan", str(path), "--gpus", "9 apples"])
    assert wrong.exit_code == 2
    assert not (tmp_path / "x").exists(), "a plan writes nothing"


def test_a_plan_counts_in_whole_rows(tmp_path: Path) -> None:
    prompts = {"path": "microworld", "num_prompts": 1999, "harmless_kind": "helpful", "test_fraction": 0.3}
    made = plan(recipe(tmp_path, prompts=prompts, pairs={"model": "policy"}, labels={}), hardware(None))
    for stage in as_json(made)["stages"]:
        counted = {**stage["planned"], **stage["planned"]["used"]}
        assert all(isinstance(counted[name], int) for name in COUNTS & counted.keys()), stage


def test_human_pairs_on_held_out_prompts_are_not_learned(tmp_path: Path) -> None:
    asked = [f"Which soup suits day {k}?" for k in range(40)]
    path = write_jsonl(tmp_path / "soups.jsonl", [{"prompt": text} for text in asked])
    pairs = [{"prompt": text, "chosen": "Leek.", "rejected": "None at all."} for text in asked]
    helpful = {"path": str(write_jsonl(tmp_path / "pairs.jsonl", pairs))}

    def learned(test_fraction: float) -> StagePlan:
        sections = {"pairs": {"model": "policy"}, "labels": {}}
        trained = {"helpful_pairs": [helpful], "eval_fraction": 0.0, "model": "policy"}
        prompts = {"path": str(path), "test_fraction": test_fraction}
        return stages(plan(recipe(tmp_path, prompts=prompts, **sections, preference_model=trained), hardware(None)))[
            "train_preference_model"
        ]

    without, half = learned(0.0), learned(0.5)
    assert without.rows_in == half.rows_in
    assert 10 < without.rows_out - half.rows_out < 30


def test_known_models_are_found_by_name() -> None:
    assert all(shape.params > 1e6 for _, shape in KNOWN)
    assert ModelConfig().path == "microworld"


def test_a_judge_of_answers_reads_what_its_questions_hold(tmp_path: Path) -> None:
    def judged(**reward: Any) -> tuple[float, int]:
        ppo: dict[str, Any] = {
            **{"model": "policy", "num_steps": 10, "prompts_per_step": 16, "samples_per_prompt": 4},
            **{"optim": {"batch_size": 16}, "advantage": {"kind": "rloo"}, "sampling": {"max_tokens": 32}},
            "reward": {"kind": "constitution", "model": "policy", **reward},
        }
        models = {"policy": {"path": "microworld"}}
        data = {"prompts": {"path": "microworld", "num_prompts": 100}, "revise": None}
        made = stages(plan(recipe(tmp_path, models=models, ppo=ppo, **data), hardware("2xH100"), use_finished=False))
        return made["train_ppo"].used.requests, made["train_ppo"].work.num_devices

    answers = 10 * 16 * 4
    assert judged() == (2 * answers, 3), "one question about each answer, by engines of their own"
    assert judged(principles_per_answer=3)[0] == 4 * answers
    assert judged(reading="pairwise")[0] == answers + 10 * 16 * 6 * 2, "six pairs of a prompt, in both orders"
    assert judged(engines={"sleep": True})[1] == 2
