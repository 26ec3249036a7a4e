"""The preference model's refresh within PPO, on scripted machines: when, what is learned, restarts, room, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.summaries.ppo import PpoSummary, Refresh
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import EndpointConfig, EngineConfig, ModelConfig, ScalingConfig
from cai_ray.engines.training.job import TrainingDiverged
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import settings
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.machines import leaving_for
from cai_ray.stages.ppo.refresh.config import RefreshConfig
from cai_ray.stages.ppo.refresh.relearning import fit_of, slopes_of
from cai_ray.stages.ppo.summary import summarise, table
from cai_ray.stages.report.source import RunSource
from cai_ray.stages.report.training import training_of
from tests.scripted_ppo import (
    PROMPTS,
    Killed,
    Script,
    ScriptedLearners,
    check_kills_at_calls,
    check_kills_at_writes,
    curve,
    models_folder,
    outcome,
    small,
    use_script,
)
from tests.scripted_refresh import refresh_context, sources, use_judge

EVERY_2 = {"kind": "refresh", "every": 2, "prompts": 10, "batch_size": 4, "learning_rate": 0.5, "epochs": 2}
FEW_UPDATES = {**EVERY_2, "prompts": 6, "batch_size": 8, "epochs": 1}
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["on-policy", "one-step-off"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"))


def refreshing(**changes: Any) -> Config:
    """5 steps with refreshes after the second and the fourth."""
    return small(**{"num_steps": 5, "reward": EVERY_2, **changes})


def run(
    folder: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    script: Script | None = None,
    **changes: Any,
) -> tuple[Context, Script]:
    """`changes`: of the sources."""
    script = script or Script()
    use_script(monkeypatch, script, models)
    use_judge(monkeypatch, script)
    context = refresh_context(folder, models)
    train_ppo.run(config, context, PROMPTS, sources(**changes))
    return context, script


def artifact_of(context: Context) -> Artifact:
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    return artifact


def figures(context: Context) -> list[dict[str, Any]]:
    """Of every refresh, in the order in which they were written."""
    entries = parse_metrics(read_metrics(context.folder(train_ppo.STAGE)))
    return [entry for entry in entries if "refresh" in entry]


def whole_outcome(context: Context) -> tuple[Any, ...]:
    """All that must not depend on what went wrong."""
    last = {entry["refresh"]: entry for entry in figures(context)}
    told = [{k: v for k, v in last[n].items() if k not in ("attempt", "elapsed_s", "refresh_s")} for n in sorted(last)]
    return (*outcome(context), told, artifact_of(context).manifest.counters)


def test_what_happens_when(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, script = run(tmp_path, models, monkeypatch, refreshing(num_steps=3))
    at = script.calls.index("saved step-2.a1") + 1
    until = script.calls.index("saved step-2.r1.a1") + 1
    seen = script.calls[at:until]
    assert seen[:3] == ["submit v2", "result v2", "label"]
    learned = [call for call in seen if call.startswith("reward")]
    assert learned[0] == learned[-1] == "rewards" and learned[1:-1] == ["rewards", "reward_step"] * (
        len(learned) // 2 - 1
    )
    assert seen[-2:] == ["save step-2.r1.a1", "saved step-2.r1.a1"]
    assert script.calls[until:][:3] == ["submit v2", "result v2", "score v2"], "the next step follows"
    assert not any("r1" in call for call in script.calls[:at])


def test_refreshes_and_only_they_change_the_scores(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_them, _ = run(tmp_path / "with", models, monkeypatch, refreshing())
    without, script = run(tmp_path / "without", models, monkeypatch, refreshing(reward={"kind": "preference_model"}))
    ours, theirs = curve(with_them), curve(without)
    assert ours[:2] == theirs[:2] and ours[2]["score"] != theirs[2]["score"]
    assert [one["refresh"] for one in figures(with_them)] == [1, 2] and figures(without) == []
    assert not any("reward" in call or "label" in call for call in script.calls)
    assert not (tmp_path / "without" / "train_ppo" / "refresh").exists()


def test_the_figures(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = run(tmp_path, models, monkeypatch, refreshing())
    artifact = artifact_of(context)
    first = figures(context)[0]
    assert first["step"] == 2 and first["refresh_pairs"] == 10
    ties = first["refresh_dropped.tie"]
    assert ties > 0 and first["refresh_labelled"] == 10 - sum(
        number for name, number in first.items() if name.startswith("refresh_dropped.")
    )
    assert (
        f"{first['refresh_labelled']} of 10 fresh pairs got a label" in first["event"]
        and f"tie {ties}" in first["event"]
    )
    assert first["refresh_learned_loss_after"] < first["refresh_learned_loss_before"]
    for name in ("learned", "held_out", "original"):
        assert 0 <= first[f"refresh_{name}_accuracy_before"] <= 1
    assert first["refresh_updates"] == 2 * -(-2 * first["refresh_replayed"] // 4)
    counters = artifact.manifest.counters
    assert counters["refreshes"] == 2 and counters["refresh_pairs"] == 20
    assert counters["refresh_labelled"] == sum(one["refresh_labelled"] for one in figures(context))
    assert counters["refresh_dropped.tie"] == sum(one["refresh_dropped.tie"] for one in figures(context))
    labels = find(artifact.folder / "refresh" / "1" / "labels")
    assert labels is not None and labels.manifest.rows_out == first["refresh_labelled"]
    summary = summary_of(artifact, PpoSummary, summarise)
    assert [one.refresh for one in summary.refreshes] == [1, 2]
    assert [{**one.figures} for one in summary.refreshes] == [
        {name: value for name, value in told.items() if name not in Refresh.model_fields} for told in figures(context)
    ]
    assert "refresh 1, after step 2" in str(list(table(summary).columns[0].cells))
    (shown,) = training_of(RunSource(context.run), [train_ppo.STAGE])
    assert [event for event in shown.events if event.startswith("refresh ")] == [
        one["event"] for one in figures(context)
    ]
    assert "every 2 steps" in artifact.folder.read("model/README.md").decode()


def test_fresh_pairs_are_answered_by_the_policy_as_it_is(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = run(tmp_path, models, monkeypatch, refreshing())
    own = {"prompt-0000/0-1"}
    seen: list[str] = []
    for number, step in ((1, 2), (2, 4)):
        pairs = find(context.folder(train_ppo.STAGE) / "refresh" / str(number) / "pairs")
        assert pairs is not None
        rows = list(pairs.rows())
        assert {row["policy"] for row in rows} == {f"sl_cai after {step} steps of PPO"}
        assert {row["kind"] for row in rows} == {"red_team"}
        assert all(row["response_a"] != row["response_b"] for row in rows)
        seen += [
            row["prompt_id"] for row in [*rows, *({"prompt_id": d["row_id"].split("/")[1]} for d in pairs.dropped())]
        ]
        assert not own & {row["pair_id"] for row in rows}
    assert len(seen) == len(set(seen)) == 20, "no prompt has a second turn before all had their first"


def test_scores_keep_their_zero(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refresh adds to every score alike never reaches the policy: comparisons do not know where zero is."""
    straight, _ = run(tmp_path / "straight", models, monkeypatch, refreshing(), centring=None)
    real = ScriptedLearners._reward
    monkeypatch.setattr(ScriptedLearners, "_reward", lambda self, ids: real(self, ids) + (100.0 if self.taste else 0.0))
    moved, _ = run(tmp_path / "moved", models, monkeypatch, refreshing(), centring=None)
    for ours, theirs in zip(curve(moved)[:3], curve(straight)[:3], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    # From here on the scripted policy, which makes words of a hash of its weight, has others at any rounding.
    assert all(abs(step["score"]) < 5 for step in curve(moved))
    (first, second), (of_straight, _) = (
        [one["refresh_offset"] for one in figures(context)] for context in (moved, straight)
    )
    assert first == pytest.approx(of_straight + 100) and abs(second) < 1


@pytest.mark.slow
@MODES
def test_a_driver_killed_at_any_call_changes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    config = refreshing(num_steps=4, reward=FEW_UPDATES, asynchronous=asynchronous, scores={"normalise": "standardise"})

    def go(folder: Path, script: Script | None) -> tuple[Context, Script]:
        return run(folder, models, monkeypatch, config, script)

    check_kills_at_calls(tmp_path, go, whole_outcome, num_steps=4)


@pytest.mark.slow
def test_a_driver_killed_at_any_write_changes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = refreshing(num_steps=3, reward=FEW_UPDATES)

    def go(folder: Path, script: Script | None) -> tuple[Context, Script]:
        return run(folder, models, monkeypatch, config, script)

    at = check_kills_at_writes(tmp_path, monkeypatch, lambda where: train_ppo.STAGE in where, go, whole_outcome)
    assert at > 30


@pytest.mark.slow
def test_a_lost_learner_changes_nothing(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = refreshing(num_steps=3, reward=FEW_UPDATES)
    straight, script = run(tmp_path / "straight", models, monkeypatch, config)
    expected = whole_outcome(straight)
    for at, call in enumerate(script.calls, start=1):
        if call.split()[0] not in {"rewards", "reward_step", "save", "score"}:
            continue
        context, again = run(tmp_path / f"lost-{at}", models, monkeypatch, config, Script(lose_at=frozenset({at})))
        assert whole_outcome(context) == expected, f"lost at call {at}: {call}"
        assert again.calls.count("label") == 1, "labels stay"


@pytest.mark.parametrize("every", [3, 7])
def test_a_refresh_begins_and_ends_with_a_snapshot(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    config = refreshing(workers={"steps_per_checkpoint": every})
    straight, script = run(tmp_path / "straight", models, monkeypatch, config)
    saved = [call.removeprefix("save ") for call in script.calls if call.startswith("save ")]
    regular = ["step-3.r1.a1"] if every == 3 else []
    assert saved == ["step-2.a1", "step-2.r1.a1", *regular, "step-4.r1.a1", "step-4.r2.a1", "step-5.r2.a1"]
    with pytest.raises(Killed):
        run(tmp_path / "killed", models, monkeypatch, config, Script(die_at=script.calls.index("update 3") + 1))
    context, again = run(tmp_path / "killed", models, monkeypatch, config)
    assert again.calls[1] == "start step-2.r1.a1", "with what the preference model has learned"
    assert again.calls.count("label") == 1
    assert whole_outcome(context) == whole_outcome(straight)


def test_a_damaged_snapshot_is_followed_by_another_refresh_from_the_same_labels(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, script = run(tmp_path / "straight", models, monkeypatch, refreshing())
    with pytest.raises(Killed):
        run(tmp_path / "run", models, monkeypatch, refreshing(), Script(die_at=script.calls.index("update 3") + 1))
    (tmp_path / "run" / "train_ppo" / "snapshots" / "step-2.r1.a1" / "learners.json").write_text("{}")
    context, again = run(tmp_path / "run", models, monkeypatch, refreshing())
    assert again.calls[1] == "start step-2.a1" and again.calls.index("reward_step") < again.calls.index("update 3")
    assert again.calls.count("label") == 1, "only the second refresh asks"
    assert whole_outcome(context) == whole_outcome(straight)


@pytest.mark.parametrize("leaving", ["engines", "all"])
def test_who_makes_room_comes_back(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, leaving: Any) -> None:
    straight, _ = run(tmp_path / "straight", models, monkeypatch, refreshing())
    context, script = run(tmp_path / "room", models, monkeypatch, refreshing(), Script(leaving=leaving))
    assert whole_outcome(context) == whole_outcome(straight)
    at = script.calls.index("label")
    back = [call for call in script.calls[at:] if call != "labelled"][1:5]
    if leaving == "all":
        assert back == ["launch", "start step-2.a1", "engines start", "push v2"]
    else:
        assert back[:2] == ["engines start", "push v2"]


@pytest.mark.parametrize(
    ("sleep", "free", "expected"),
    [
        (False, {"CPU": 8.0, "GPU": 1.0}, "nobody"),
        (False, {"CPU": 8.0, "GPU": 0.0}, "engines"),
        (False, {"CPU": 8.0}, "engines"),
        (True, {"CPU": 8.0, "GPU": 0.0}, "all"),
        (False, {"CPU": 2.5, "GPU": 1.0}, "engines"),
        (False, {"CPU": 0.5, "GPU": 1.0}, "all"),
    ],
)
def test_who_has_to_leave(sleep: bool, free: dict[str, float], expected: str) -> None:
    config = small(rollouts={"num_engines": 1, "cpus_per_engine": 1, "sleep": sleep})
    found = leaving_for(config, ModelConfig(), True, free, ModelConfig(), ScalingConfig())
    assert found == expected


def test_a_server_needs_no_gpu() -> None:
    server = ModelConfig(endpoint=EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m"))
    assert leaving_for(small(), ModelConfig(), True, {"CPU": 8.0}, server, ScalingConfig()) == "nobody"
    large = ModelConfig(engine=EngineConfig(tensor_parallel_size=4))
    assert leaving_for(small(), ModelConfig(), True, {"CPU": 8.0, "GPU": 2.0}, large, ScalingConfig()) == "all"
    assert leaving_for(small(), ModelConfig(), False, {"CPU": 8.0}, ModelConfig(), ScalingConfig()) == "nobody"


def test_nothing_to_learn_from_is_said_and_no_refresh_is_missing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scripted_refresh.TIES", 2.0)
    context, script = run(tmp_path, models, monkeypatch, refreshing())
    assert "reward_step" not in script.calls
    assert [one["refresh_labelled"] for one in figures(context)] == [0, 0]
    assert figures(context)[0]["event"].startswith(
        "refresh 1 of the preference model: 0 of 10 fresh pairs got a label ("
    )
    without, _ = run(tmp_path / "without", models, monkeypatch, refreshing(reward={"kind": "preference_model"}))
    assert curve(context) == curve(without)


def test_scores_that_are_none_stop_the_run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = refreshing(reward={**EVERY_2, "learning_rate": 1e308})
    with pytest.raises(TrainingDiverged, match=r"step 2: refresh 1 of the preference model.*snapshot: .*step-2\.a1"):
        run(tmp_path, models, monkeypatch, config)


# --- Mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [4, 5])
def test_a_refresh_that_would_never_come_is_refused(every: int) -> None:
    with pytest.raises(ValidationError, match=rf"reward.every={every} and num_steps=4: no refresh would come"):
        small(reward={"kind": "refresh", "every": every})


def test_off_by_default_and_then_no_setting_of_the_stage() -> None:
    every_2 = {"kind": "refresh", "every": 2}
    assert Config().refresh is None and "reward" not in settings(Config())
    assert settings(small(reward=every_2))["reward"]["every"] == 2
    assert settings(small(reward=every_2)) != settings(small(reward={**every_2, "replay": 0.5}))


def test_what_the_labels_stage_refuses_is_refused_before_anything_starts(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(context: Context) -> None:
        raise ConfigError("no principle has a comparison question")

    script = Script()
    use_script(monkeypatch, script, models)
    with pytest.raises(ConfigError, match="comparison question"):
        train_ppo.run(refreshing(), refresh_context(tmp_path, models), PROMPTS, sources(check=refuse))
    with pytest.raises(ConfigError, match="'gone' has no output"):
        train_ppo.run(refreshing(), refresh_context(tmp_path, models), PROMPTS, sources(pairs_stage="gone"))
    with pytest.raises(ConfigError, match="sections labels and preference_model"):
        train_ppo.run(refreshing(), refresh_context(tmp_path, models), PROMPTS)
    assert script.calls == []


# --- Arithmetic -----------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(2, 60))
def test_every_refresh_has_its_step_and_none_follows_the_last(every: int, num_steps: int) -> None:
    config = RefreshConfig(every=every)
    due = [config.num_due(step, num_steps) for step in range(num_steps + 1)]
    assert due[0] == 0 and due[-1] == due[-2]
    assert [step for step in range(1, num_steps) if due[step] > due[step - 1]] == list(range(every, num_steps, every))


def test_slopes_by_hand() -> None:
    loss, slopes = slopes_of([1.0, 0.0, 0.0, 0.0], [1.0, 0.5], None)
    assert loss == pytest.approx((0.31326169 + 0.69314718) / 2)
    assert slopes == pytest.approx([(0.73105858 - 1) / 2, 0, (1 - 0.73105858) / 2, 0])
    _, centred = slopes_of([1.0, 0.0, 0.0, 0.0], [1.0, 0.5], 0.1)
    assert [a - b for a, b in zip(centred, slopes, strict=True)] == pytest.approx([0.1, 0, 0.1, 0])


def test_fit_by_hand() -> None:
    fit = fit_of([1.0, 0.0, 0.0, 0.0], [1.0, 0.5])
    assert fit.accuracy == 0.5 and fit.loss == pytest.approx((0.31326169 + 0.69314718) / 2)
    json.dumps(fit._asdict(), allow_nan=False)
