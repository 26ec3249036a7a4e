"""A limit reached midway: PPO ends after its step, with a snapshot of it, and a higher limit goes on; and trackers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from cai_ray.artifacts.allowance import Allowance
from cai_ray.artifacts.counters import OUTPUT_TOKENS, PROMPT_TOKENS
from cai_ray.artifacts.spending import spent
from cai_ray.errors import LimitReached
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from tests.progress.test_trackers import events
from tests.scripted_ppo import (
    PROMPTS,
    Script,
    context_of,
    curve,
    models_folder,
    outcome,
    prompt_rows,
    small,
    use_script,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"))


def run(
    folder: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    tokens: int | None = None,
    hours: float | None = None,
) -> tuple[Context, Script]:
    """With so much to spend from here on."""
    script = Script()
    use_script(monkeypatch, script, models)
    context = context_of(folder, models, prompt_rows(30))
    if tokens is not None or hours is not None:
        stage = context.folder(train_ppo.STAGE)
        until = None if hours is None else time.time() + hours * 3600
        limits = {"tokens": f"ppo.limits.tokens={tokens}", "hours": f"ppo.limits.hours={hours}"}
        context = replace(context, allowance=Allowance(stage, spent(stage), tokens, None, until, limits))
    train_ppo.run(config, context, PROMPTS)
    return context, script


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / train_ppo.STAGE / "snapshots").glob("step-*") if path.is_dir())


@pytest.mark.parametrize("asynchronous", [False, True], ids=["on-policy", "one-step-off"])
def test_tokens(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    config = small(num_steps=5, asynchronous=asynchronous, workers={"steps_per_checkpoint": 4})
    straight, _ = run(tmp_path / "straight", models, monkeypatch, config)
    counters = straight.artifact(train_ppo.STAGE).manifest.counters
    total = counters[PROMPT_TOKENS] + counters[OUTPUT_TOKENS]
    folder = tmp_path / "limited"
    with pytest.raises(LimitReached, match=rf"^ppo\.limits\.tokens={total // 2} is reached.*Raise it"):
        run(folder, models, monkeypatch, config, tokens=total // 2)
    used = spent(context_of(folder, models, prompt_rows(30)).folder(train_ppo.STAGE))
    most = total // 2 + total // 5 * 2  # what is under way: one step
    assert total // 2 <= used.tokens < most and saved(folder) == ["step-3.a1"]
    context, script = run(folder, models, monkeypatch, config, tokens=total)
    assert outcome(context) == outcome(straight)
    updates = [call for call in script.calls if call.startswith("update")]
    assert updates == ["update 4", "update 5"] and len(curve(context)) == 5


def test_hours(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(num_steps=3)
    with pytest.raises(LimitReached, match=r"hours"):
        run(tmp_path, models, monkeypatch, config, hours=0.0)
    assert saved(tmp_path) == ["step-1.a1"]
    context, _ = run(tmp_path, models, monkeypatch, config, hours=1.0)
    straight, _ = run(tmp_path / "straight", models, monkeypatch, config)
    assert outcome(context) == outcome(straight)


def test_the_last_step_is_no_reason_to_stop(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = run(tmp_path, models, monkeypatch, small(num_steps=1), tokens=1)
    assert context.artifact(train_ppo.STAGE).manifest.rows_out > 0


def test_the_clock_of_a_run_leaves_a_step_alone() -> None:
    step = train_ppo.step(Config(), PROMPTS, None)
    assert step.minds_time and step.makes == "rl_cai"


def test_trackers_hear_of_every_step(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    config = small(num_steps=3, workers={"report_to": ["tensorboard"], "steps_per_checkpoint": 2})
    context, _ = run(tmp_path, models, monkeypatch, config)
    found = [
        (event.step, value.tag)
        for event in events(tmp_path / train_ppo.STAGE / "tensorboard")
        for value in event.summary.value
    ]
    assert [step for step, tag in found if tag == "score"] == [1, 2, 3]
    assert [step for step, tag in found if tag.startswith("rollouts")] == [2, 3]
    straight, _ = run(tmp_path / "straight", models, monkeypatch, small(num_steps=3))
    assert outcome(context) == outcome(straight)  # nothing else is changed by it
