"""Workers killed in each stage: vLLM's processes, Ray's actors and Ray Train's workers, on the micro model.

A run of all stages is made once. Each repetition copies what lies before the stage and runs that stage alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.chaos import seen
from benchmarks.chaos.counting import Outcome, lines_of, step_entries, steps_of
from benchmarks.chaos.trial import LIMIT_S, Trial, ending
from cai_ray.artifacts.storage import Storage
from cai_ray.pipeline.recipe import load
from cai_ray.pipeline.steps import steps
from tests.runs import cli, start, wait_for

ENGINE = {
    "max_num_seqs": 32,
    "max_num_batched_tokens": 2048,
    "kv_cache_gib": 0.5,
    "rows_in_flight": 8,
    "extra": {"logits_processors": [seen.PROCESSOR]},
}
SMALL = {"rows_per_task": 4, "rows_per_part": 8}
SHORT = {"max_tokens": 48}


def training(epochs: int) -> dict[str, Any]:
    return {
        "optim": {"learning_rate": 1e-3, "batch_size": 8, "epochs": epochs},
        "workers": {"steps_per_checkpoint": 20, "threads": 1},
    }


RECIPE: dict[str, Any] = {
    "name": "run",
    "seed": 0,
    "models": {"policy": {"path": "microworld", "engine": ENGINE}},
    "prompts": {"path": "microworld", "num_prompts": 64, "harmful_fraction": 0.5, "test_fraction": 0.25},
    "revise": {
        "num_revisions": 1,
        **{f"{what}_sampling": SHORT for what in ("answer", "critique", "revision")},
        "scaling": SMALL,
    },
    "sft": training(20),
    "pairs": {
        "samples_per_prompt": 4,
        "temperatures": [1.0, 1.4],
        "sampling": SHORT,
        "scaling": SMALL,
        "max_dropped_fraction": 1.0,
    },
    "labels": {"delimiters": "plain", "scaling": SMALL, "max_dropped_fraction": 1.0},
    "preference_model": {"helpful_pairs": [{"path": "microworld", "num_pairs": 100}], **training(8)},
    "dpo": training(20),
    "ppo": {
        "num_steps": 6,
        "prompts_per_step": 16,
        "sampling": SHORT,
        "optim": {"learning_rate": 2e-4, "batch_size": 8, "epochs": 2},
        "workers": {"zero_stage": 0, "threads": 1},
    },
    "evaluate": {"policies": ["policy", "sl_cai"], "samples_per_prompt": 2, "sampling": SHORT, "scaling": SMALL},
}
GENERATING = {"revise": 24, "sample_pairs": 12, "label_comparisons": 12, "evaluate": 12}  # requests before the fault
TRAINING = ("train_sft", "train_preference_model", "train_dpo")
PPO_STEPS = 2  # before the fault


def write_recipe(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(folder)}))
    return path


def base_run(folder: Path) -> Path:
    """The run without a fault; made once."""
    run = folder / "stages" / "run"
    if not (run / "evaluate" / "manifest.json").exists():
        os.environ[seen.FILE] = str(folder / "stages" / "seen")
        recipe = write_recipe(folder / "stages")
        with ending(start(cli(recipe), folder / "stages" / "log.txt")) as driver:
            assert driver.wait(2 * LIMIT_S) == 0, (folder / "stages" / "log.txt").read_text()[-3000:]
    return run


def before(stage: str, folder: Path) -> Trial:
    """A run that is done up to `stage`."""
    base = base_run(folder)
    here = folder / f"{stage}-{time.time_ns()}"
    recipe = write_recipe(here)
    order = [step.stage for step in steps(load(recipe))]
    after = {*order[order.index(stage) :], "exports"}
    shutil.copytree(base, here / "run", ignore=lambda at, names: after & set(names) if Path(at) == base else set())
    os.environ[seen.FILE] = str(here / "seen")
    made = here / "base"  # what the stage is held against, and all before it
    later = {*order[order.index(stage) + 1 :], "exports"}
    shutil.copytree(base, made, ignore=lambda at, names: later & set(names) if Path(at) == base else set())
    return Trial(recipe, made, lambda: lines_of(here / "seen"), ("--until", stage))


def engine_core(driver: int) -> psutil.Process | None:
    """vLLM's own process."""
    return _descendant(driver, "EngineCor")


def engine_actor(driver: int) -> psutil.Process | None:
    """Ray's worker that holds the engine."""
    core = engine_core(driver)
    above = core.parents() if core else []
    return next((process for process in above if _words(process).startswith("ray::")), None)


def train_worker(driver: int) -> psutil.Process | None:
    return _descendant(driver, "ray::RayTrainWorker")


Victim = Callable[[int], psutil.Process | None]


def _descendant(pid: int, word: str) -> psutil.Process | None:
    children = psutil.Process(pid).children(recursive=True)
    return next((child for child in children if word in _words(child)), None)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.name()])
    except psutil.Error:
        return ""


def _kill(victim: Victim, driver: int) -> None:
    found = wait_for(lambda: victim(driver), 30, "the process to kill")
    found.kill()
    psutil.wait_procs([found], timeout=30)


def generating(stage: str, victim: Victim, folder: Path) -> Outcome:
    """An engine is lost while rows are under way."""
    trial = before(stage, folder)
    with ending(trial.start()) as driver:
        trial.asked(GENERATING[stage], driver)
        trial.fault()
        _kill(victim, driver.pid)
        recovery_s = trial.asks_again()
        trial.ended(driver)
    return trial.outcome(recovery_s, stage)


def learning(stage: str, victim: Victim, folder: Path) -> Outcome:
    """A worker of a training is lost between two checkpoints."""
    trial = before(stage, folder)
    num_steps = PPO_STEPS if stage == "train_ppo" else len(steps_of(Storage(str(trial.base / stage)))) // 2
    with ending(trial.start()) as driver:
        _wait_for_steps(trial, stage, num_steps, driver.poll)
        trial.fault()
        _kill(victim, driver.pid)
        recovery_s = _next_step(trial, stage)
        trial.ended(driver)
    return _steps_outcome(trial, stage, recovery_s)


def terminated(stage: str, folder: Path) -> Outcome:
    """SIGTERM to the driver of a training: a checkpoint is written, 75; then the same command again."""
    trial = before(stage, folder)
    num_steps = len(steps_of(Storage(str(trial.base / stage)))) // 2
    with ending(trial.start()) as driver:
        _wait_for_steps(trial, stage, num_steps, driver.poll)
        trial.fault()
        driver.send_signal(signal.SIGTERM)
        trial.ended(driver, 75)
    with ending(trial.start()) as driver:
        recovery_s = _next_step(trial, stage)
        trial.ended(driver)
    return _steps_outcome(trial, stage, recovery_s)


def _entries(trial: Trial, stage: str) -> list[tuple[int, bool]]:
    return step_entries(trial.run / stage)


def _wait_for_steps(trial: Trial, stage: str, num: int, ended: Callable[[], int | None]) -> None:
    wait_for(lambda: len(_entries(trial, stage)) >= num or ended() is not None, LIMIT_S, f"{num} steps", 0.005)
    assert ended() is None, trial.log.read_text()[-3000:]


def _next_step(trial: Trial, stage: str) -> float:
    done = len(_entries(trial, stage))
    return trial.since(lambda: len(_entries(trial, stage)) > done)


def _steps_outcome(trial: Trial, stage: str, recovery_s: float) -> Outcome:
    found = trial.outcome(recovery_s, "revise")
    entries = _entries(trial, stage)
    return Outcome(
        found.lost,
        found.doubled,
        len(entries) - len(set(entries)),
        len(steps_of(Storage(str(trial.base / stage)))),
        "steps",
        found.recovery_s,
        found.codes,
    )


KILLED: dict[str, Callable[[Path], Outcome]] = {
    **{f"{stage}: the actor of an engine killed": partial(generating, stage, engine_actor) for stage in GENERATING},
    "revise: vLLM's process killed": partial(generating, "revise", engine_core),
    **{f"{stage}: the worker killed": partial(learning, stage, train_worker) for stage in TRAINING},
    "train_ppo: the learner killed": partial(learning, "train_ppo", train_worker),
    "train_ppo: vLLM's process killed": partial(learning, "train_ppo", engine_core),
    "train_sft: SIGTERM to the driver": partial(terminated, "train_sft"),
}
