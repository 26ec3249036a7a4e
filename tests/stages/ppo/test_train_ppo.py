"""The PPO loop against scripted machines: order, versions, restarts, guards, rows. No model, no Ray."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.summaries.ppo import PpoSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.engines.training.job import TrainingDiverged
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.machines import Machines
from cai_ray.stages.ppo.summary import summarise, table
from tests.scripted_ppo import (
    PROMPTS,
    Killed,
    Script,
    check_kills_at_calls,
    check_kills_at_writes,
    context_of,
    curve,
    events,
    models_folder,
    outcome,
    prompt_rows,
    small,
    use_script,
)

MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["on-policy", "one-step-off"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"))


def run(
    folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch, config: Config, script: Script | None = None
) -> tuple[Context, Script]:
    script = script or Script()
    use_script(monkeypatch, script, models)
    context = context_of(folder, models, prompt_rows(30))
    train_ppo.run(config, context, PROMPTS)
    return context, script


def test_strictly_on_policy(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, script = run(tmp_path, models, monkeypatch, small(num_steps=2))
    assert script.calls == [
        *("launch", "start None", "engines start"),
        *("submit v0", "result v0", "score v0", "update 1", "push v1", "logprobs", "save step-1.a1", "saved step-1.a1"),
        *("submit v1", "result v1", "score v1", "update 2", "push v2", "logprobs", "save step-2.a1", "saved step-2.a1"),
        *("export", "exported"),
    ]
    assert [step["policy_lag"] for step in curve(context)] == [0, 0]


def test_one_step_off_policy(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, script = run(tmp_path, models, monkeypatch, small(num_steps=3, asynchronous=True))
    steps = [
        call
        for call in script.calls
        if call.split()[0] not in {"launch", "engines", "start", "save", "saved", "logprobs"}
    ]
    assert steps == [
        *("submit v0", "result v0", "submit v0", "score v0", "update 1", "result v0", "push v1"),
        *("submit v1", "score v0", "update 2", "result v1", "push v2"),
        *("score v1", "update 3", "push v3"),
        *("export", "exported"),
    ]
    assert [step["policy_lag"] for step in curve(context)] == [0, 1, 1]


@pytest.mark.slow
@MODES
def test_a_driver_killed_at_any_moment_changes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    config = small(
        num_steps=3, asynchronous=asynchronous, kl={"target": 0.5, "horizon": 20}, scores={"normalise": "standardise"}
    )

    def go(folder: Path, script: Script | None) -> tuple[Context, Script]:
        return run(folder, models, monkeypatch, config, script)

    straight = check_kills_at_calls(tmp_path, go, outcome, num_steps=3)
    assert len({json.dumps(step) for step in curve(straight)}) == 3


@pytest.mark.slow
@MODES
def test_a_driver_killed_at_any_write_changes_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    config = small(num_steps=2, asynchronous=asynchronous)

    def go(folder: Path, script: Script | None) -> tuple[Context, Script]:
        ended = run(folder, models, monkeypatch, config, script)
        summary_of(ended[0].artifact(train_ppo.STAGE), PpoSummary, summarise)  # the step's last write
        return ended

    at = check_kills_at_writes(tmp_path, monkeypatch, lambda where: where.endswith(train_ppo.STAGE), go, outcome)
    assert at > 15


@MODES
def test_a_lost_learner_costs_one_step(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    config = small(num_steps=3, asynchronous=asynchronous)
    straight, script = run(tmp_path / "straight", models, monkeypatch, config)
    expected = outcome(straight)
    for at, call in enumerate(script.calls, start=1):
        if call.split()[0] not in {"score", "update", "push", "logprobs", "save", "export"}:
            continue
        context, again = run(
            tmp_path / f"lost-{at}", models, monkeypatch, config, Script(lose_at=frozenset({at, at + 2}))
        )
        assert outcome(context) == expected, f"lost at call {at}: {call}"
        assert sum(call.startswith("update") for call in again.calls) <= 3 + 1
        assert sum(event.startswith("a learner was lost") for event in events(context)) == 2  # also while coming back


@pytest.mark.parametrize("every", [2, 3, 7])
def test_fewer_snapshots_cost_more_and_change_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    config = small(num_steps=5, workers={"steps_per_checkpoint": every})
    straight, script = run(tmp_path / "straight", models, monkeypatch, config)
    saved = [call for call in script.calls if call.startswith("save ")]
    assert saved == [f"save step-{step}.a1" for step in range(1, 6) if step % every == 0 or step == 5]
    killed_at = script.calls.index("update 5") + 1
    with pytest.raises(Killed):
        run(tmp_path / "killed", models, monkeypatch, config, Script(die_at=killed_at))
    context, again = run(tmp_path / "killed", models, monkeypatch, config)
    assert outcome(context) == outcome(straight)
    last = max((step for step in range(1, 5) if step % every == 0), default=0)
    assert [call for call in again.calls if call.startswith("update")] == [f"update {s}" for s in range(last + 1, 6)]


def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, script = run(tmp_path / "straight", models, monkeypatch, small())
    with pytest.raises(Killed):
        run(tmp_path / "run", models, monkeypatch, small(), Script(die_at=script.calls.index("update 4") + 1))
    saved = tmp_path / "run" / "train_ppo" / "snapshots"
    assert sorted(path.name for path in saved.iterdir()) == [
        "step-2.a1", "step-2.a1.json", "step-3.a1", "step-3.a1.json",
    ]  # fmt: skip
    (saved / "step-3.a1" / "learners.json").write_text("{}")
    context, again = run(tmp_path / "run", models, monkeypatch, small())
    assert again.calls[1] == "start step-2.a1" and "push v2" in again.calls[:4]
    assert "step 3 is passed over" in events(context)[0]
    assert outcome(context) == outcome(straight)


def test_rows_that_are_gone_are_made_again(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, script = run(tmp_path / "straight", models, monkeypatch, small())
    with pytest.raises(Killed):
        run(tmp_path / "run", models, monkeypatch, small(), Script(die_at=script.calls.index("update 4") + 1))
    folder = tmp_path / "run" / "train_ppo"
    of_step_3 = [path for path in folder.glob("part-*.parquet") if _steps_in(path) == {3}]
    of_step_3[0].write_bytes(b"broken")
    context, again = run(tmp_path / "run", models, monkeypatch, small())
    assert again.calls[1] == "start step-2.a1"
    assert outcome(context) == outcome(straight)


def _steps_in(path: Path) -> set[int]:
    import pyarrow.parquet as pq

    return set(pq.read_table(path)["step"].to_pylist())


def test_a_finished_run_does_nothing_and_a_changed_one_is_refused(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = run(tmp_path, models, monkeypatch, small())
    _, again = run(tmp_path, models, monkeypatch, small())
    assert again.calls == []
    with pytest.raises(ConfigError, match="was made with other settings"):
        train_ppo.run(small(num_steps=5), replace(context, fingerprints={train_ppo.STAGE: "other"}), PROMPTS)


def test_every_prompt_has_its_turn_before_any_has_another(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(num_steps=6, samples_per_prompt=2, samples_kept=1000, optim={"batch_size": 16, "epochs": 1})
    context, _ = run(tmp_path, models, monkeypatch, config)
    rows = outcome(context)[1]
    assert len(rows) == 6 * 16
    asked = Counter(row["prompt_id"] for row in rows)
    assert set(asked) == {row["prompt_id"] for row in prompt_rows(30) if row["split"] == "train"}
    assert set(asked.values()) == {2 * 2}  # 48 turns over 24 prompts, 2 answers each
    assert len({(row["prompt_id"], row["sample_index"]) for row in rows}) == len(rows)
    assert {row["policy_version"] for row in rows if row["step"] == 4} == {3}


def test_kept_rows_and_manifest_add_up(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = run(tmp_path, models, monkeypatch, small())
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    manifest = artifact.manifest
    assert (manifest.rows_in, manifest.rows_out) == (12, 12)
    assert manifest.counters["num_episodes"] == 32
    assert Counter(row["step"] for row in artifact.rows()) == dict.fromkeys(range(1, 5), 3)
    assert {file.name for file in manifest.model_files} == {"model/weight.json", "model/README.md"}
    card = artifact.folder.read("model/README.md").decode()
    assert card.startswith("---\n") and "`policy`" in card and str(models) not in card


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_without_a_value_model(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    config = small(advantage={"kind": kind}, samples_per_prompt=2)
    context, _ = run(tmp_path, models, monkeypatch, config)
    assert all("explained_variance" not in step and "value" not in step for step in curve(context))


# --- Guards ---------------------------------------------------------------------------------------------


def worse(steps: set[int], change: Any) -> Any:
    def changed(step: int, scored: list[Scored]) -> list[Scored]:
        return [change(one) for one in scored] if step in steps else scored

    return changed


def test_a_step_with_bad_numbers_is_skipped(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def once(step: int, scored: list[Scored]) -> list[Scored]:
        seen.append(step)
        return [replace(scored[0], score=float("nan")), *scored[1:]] if len(seen) == 2 else scored

    context, script = run(tmp_path, models, monkeypatch, small(), Script(change=once))
    assert [call for call in script.calls if call.startswith("update")] == ["update 1", "update 3", "update 4"]
    assert curve(context)[1]["score"] is None and "policy_loss" not in curve(context)[1]
    assert next(event for event in events(context) if "score or value is not finite" in event).startswith("step 2 ")
    kept = [row["score"] for row in outcome(context)[1] if row["step"] == 2]
    assert len(kept) == 3
    json.dumps(curve(context), allow_nan=False)


def test_too_many_bad_steps_stop_the_run_with_the_last_good_snapshot(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(num_steps=8, guards={"max_skips": 1, "max_kl": 5.0})
    far = worse({2, 3, 4, 5, 6}, lambda one: replace(one, ref_logprobs=tuple(p - 9 for p in one.ref_logprobs)))
    message = r"train_ppo: step 3: KL from the reference is .* above max_kl=5.*snapshot: .*snapshots/step-2\.a1"
    with pytest.raises(TrainingDiverged, match=message):
        run(tmp_path, models, monkeypatch, config, Script(change=far))
    # The cause mended, it goes on from there, and remembers that one step was bad.
    context, again = run(tmp_path, models, monkeypatch, config)
    assert again.calls[1] == "start step-2.a1"
    assert [step["step"] for step in curve(context)] == list(range(1, 9))


def test_a_run_that_stopped_stops_again(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(guards={"max_skips": 0})
    sick = worse({2, 3}, lambda one: replace(one, logprobs=(float("-inf"),) * len(one.logprobs)))
    for _ in range(2):
        with pytest.raises(TrainingDiverged, match=r"step 2: a token's log-probability is not finite"):
            run(tmp_path, models, monkeypatch, config, Script(change=sick))


def test_learners_that_give_up_on_an_update(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cai_ray.engines.learners.job import LearnersDiverged
    from tests.scripted_ppo import ScriptedLearners

    real = ScriptedLearners.update

    def update(self: ScriptedLearners, *args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 3:
            raise LearnersDiverged("grad_norm=inf is not finite")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ScriptedLearners, "update", update)
    with pytest.raises(TrainingDiverged, match=r"step 3: grad_norm=inf.*step-2\.a1"):
        run(tmp_path, models, monkeypatch, small())


def test_engines_that_give_up_leave_the_snapshots(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.scripted_ppo import ScriptedPending

    real = ScriptedPending.result

    def result(self: ScriptedPending) -> Any:
        if self.version == 2:
            raise EngineGaveUp("rollout engine 0 was lost too often")
        return real(self)

    monkeypatch.setattr(ScriptedPending, "result", result)
    with pytest.raises(EngineGaveUp):
        run(tmp_path, models, monkeypatch, small())
    monkeypatch.setattr(ScriptedPending, "result", real)
    context, again = run(tmp_path, models, monkeypatch, small())
    assert again.calls[1] == "start step-2.a1"
    assert len(curve(context)) == 4


# --- The end --------------------------------------------------------------------------------------------


def test_summary_and_table(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = run(tmp_path, models, monkeypatch, small(num_steps=20))
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    summary = summary_of(artifact, PpoSummary, summarise)
    steps = curve(context)
    assert summary.num_steps == 20 and summary.steps_compared == 2
    assert summary.first["score"] == pytest.approx((steps[0]["score"] + steps[1]["score"]) / 2)
    assert summary.last["kl"] == pytest.approx((steps[-1]["kl"] + steps[-2]["kl"]) / 2)
    assert summary.num_episodes == 160
    assert summary == summary_of(artifact, PpoSummary, summarise)
    assert table(summary).row_count > 10


def test_learners_that_compute_otherwise_are_refused_before_they_learn() -> None:
    def machines(**proof: Any) -> Machines:
        nobody: Any = None
        return Machines(nobody, nobody, nobody, small(proof=proof), 1e-3, lambda model, scaling: "nobody")

    episode = Episode("p", 0, (1, 2), (3, 4), (-1.0, -2.0), False, "yes", 0)
    agreeing = Scored(0.5, (-1.0, -2.0005), (-1.0, -1.0), ())
    apart = Scored(0.5, (-1.7, -2.9), (-1.0, -1.0), ())
    machines().prove_start([episode], [agreeing])
    with pytest.raises(ConfigError, match=r"ppo: the learner .* are 0\.8000 nats per token apart, more than 0\.001"):
        machines().prove_start([episode], [apart])
    machines(sequences=0).prove_start([episode], [apart])
