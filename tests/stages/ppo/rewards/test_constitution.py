"""A judge's verdicts as PPO's reward, on scripted machines: who is asked what, what is unread, restarts, sleep."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.spending import spent
from cai_ray.artifacts.summaries.ppo import PpoSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.engines.training.job import TrainingDiverged
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.summary import summarise, table
from tests.scripted_ppo import (
    PROMPTS,
    Script,
    ScriptedJudges,
    check_kills_at_calls,
    context_of,
    curve,
    events,
    models_folder,
    outcome,
    prompt_rows,
    small,
    use_script,
)
from tests.scripted_refresh import CONSTITUTION

NUM_STEPS, NUM_EPISODES = 4, 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"))


def judged(reading: str = "rating", **changes: Any) -> Config:
    """4 steps of 8 answers; comparisons are of 4 answers to each of 2 prompts."""
    reward = {"kind": "constitution", "reading": reading, **changes.pop("reward", {})}
    grouped: dict[str, Any] = {"prompts_per_step": 2, "samples_per_prompt": 4, "advantage": {"kind": "rloo"}}
    return small(**{"reward": reward, **(grouped if reading == "pairwise" else {}), **changes})


def run(
    folder: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    script: Script | None = None,
    **judge: Any,
) -> tuple[Context, Script, ScriptedJudges]:
    script = script or Script()
    judges = ScriptedJudges(script, **judge)
    use_script(monkeypatch, script, models, judges)
    context = replace(context_of(folder, models, prompt_rows(30)), constitution=CONSTITUTION)
    train_ppo.run(config, context, PROMPTS)
    return context, script, judges


def test_a_step_asks_the_judge_while_the_learners_score(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, script, judges = run(tmp_path, models, monkeypatch, judged(num_steps=1))
    assert script.calls == [
        *("launch", "judges launch", "start None", "engines start", "judges start"),
        *("submit v0", "result v0", "judge", "score v0", "verdicts", "update 1", "push v1", "logprobs"),
        *("save step-1.a1", "saved step-1.a1", "export", "exported", "judges close"),
    ]
    assert len(judges.asked) == NUM_EPISODES and all(len(row["answers"]) == 1 for row in judges.asked)
    assert len({row["row_id"] for row in judges.asked}) == NUM_EPISODES


def test_judging_overlaps_the_next_rollouts(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, script, _ = run(tmp_path, models, monkeypatch, judged(num_steps=2, asynchronous=True))
    first = script.calls.index("submit v0")
    assert script.calls[first : first + 7] == [
        *("submit v0", "result v0", "submit v0", "judge", "score v0", "verdicts", "update 1"),
    ]


def test_judges_on_the_learners_gpus_sleep_while_these_compute(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, script, _ = run(tmp_path, models, monkeypatch, judged(num_steps=1), sleeps=True)
    assert script.calls[:4] == ["launch", "judges start", "judges sleep", "start None"]
    at = script.calls.index("judges wake")
    assert script.calls[at : at + 5] == ["judges wake", "judge", "verdicts", "judges sleep", "score v0"]


def test_comparisons_stay_within_a_prompt_and_share_a_code(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, judges = run(tmp_path, models, monkeypatch, judged("pairwise", num_steps=1))
    assert 0 < len(judges.asked) <= 2 * 6, "six pairs of four answers, but for pairs of the same words"
    assert all(len(row["answers"]) == 2 and row["answers"][0] != row["answers"][1] for row in judges.asked)
    by_prompt = Counter((row["row_id"].rsplit("/", 1)[0], row["nonce"]) for row in judges.asked)
    assert len(by_prompt) == 2 and len({nonce for _, nonce in by_prompt}) == 2


def test_the_plain_layout_has_no_code(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, judges = run(tmp_path, models, monkeypatch, judged(num_steps=1, reward={"delimiters": "plain"}))
    assert all(row["nonce"] is None for row in judges.asked)


@pytest.mark.parametrize("reading", ["rating", "rubric", "pairwise"])
def test_rewards_are_verdicts(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, reading: str) -> None:
    context, _, judges = run(tmp_path, models, monkeypatch, judged(reading))
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    rows = list(artifact.rows())
    assert all(0 <= row["score"] <= 1 for row in rows) and len({row["score"] for row in rows}) > 3
    summary = summary_of(artifact, PpoSummary, summarise)
    assert summary.reward == f"constitution {reading}" and summary.mean["unread"] == 0
    assert summary.num_judge_tokens == 11 * len(judges.asked)
    counters = artifact.manifest.counters
    asked = counters["num_prompt_tokens"] + counters["num_output_tokens"]
    assert spent(artifact.folder).tokens == asked + summary.num_judge_tokens
    assert summary.mean["judge_cached_tokens"] == 4 * len(judges.asked) / NUM_STEPS
    assert f"reward by constitution {reading}" in str(table(summary).title)
    assert f"a constitution ({reading}" in artifact.folder.read("model/README.md").decode()


@pytest.mark.parametrize("reading", ["rating", "pairwise"])
def test_an_answer_without_a_verdict_leaves_the_batch_and_is_counted(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    config = judged(reading, reward={"max_unread": 0.9})
    context, script, judges = run(tmp_path, models, monkeypatch, config, unread=0.4)
    steps = curve(context)
    shares = [step["unread"] for step in steps]
    assert len([call for call in script.calls if call.startswith("update")]) == NUM_STEPS
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    if reading == "rating":
        assert 0 < sum(shares) / len(shares) < 0.9
        assert sum(shares) * NUM_EPISODES == sum(
            ScriptedJudges(script, 0.4).submit([row], [""]).result()[0]["row"] is None for row in judges.asked
        )
        assert any(row["score"] is None for row in artifact.rows()), "kept rows say so"
    assert all(step["score"] is not None for step in steps)


def test_a_step_with_too_many_is_skipped_and_such_a_run_stops(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, script, _ = run(tmp_path / "some", models, monkeypatch, judged(reward={"max_unread": 0.0}), unread=0.1)
    told = [event for event in events(context) if "no verdict that can be read" in event]
    assert told and "above ppo.reward.max_unread=0 (unparsable, " in told[0] and "such as" in told[0]
    updates = [call for call in script.calls if call.startswith("update")]
    assert len(updates) == sum(step["unread"] == 0 for step in curve(context)) == NUM_STEPS - len(told)
    with pytest.raises(TrainingDiverged, match=r"8 of 8 answers got no verdict.*4 bad steps in a row"):
        run(tmp_path / "all", models, monkeypatch, judged(reward={"max_unread": 1.0}), unread=1.0)


@pytest.mark.slow
def test_a_driver_killed_at_any_moment_changes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = judged(num_steps=2, asynchronous=True, reward={"max_unread": 0.9})

    def go(folder: Path, script: Script | None) -> tuple[Context, Script]:
        context, script, _ = run(folder, models, monkeypatch, config, script, unread=0.2)
        return context, script

    def told(context: Context) -> Any:
        steps, rows, model = outcome(context)
        return [{k: v for k, v in step.items() if k != "judge_s"} for step in steps], rows, model

    straight = check_kills_at_calls(tmp_path, go, told, num_steps=2)
    assert len({json.dumps(step) for step in curve(straight)}) == 2
