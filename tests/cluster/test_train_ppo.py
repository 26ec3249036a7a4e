"""PPO for real: the micro model learns from a tiny preference model's scores, by vLLM, Ray Train and weight sync.

The same steps straight, in a driver that is killed and one that goes on, and with engines and learners killed under
them: the same numbers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.microworld.prompt_set import sample_prompts
from cai_ray.row_ids import prompt_id_of
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from tests import runs
from tests.policy_jobs import save_reward_model
from tests.scripted_ppo import PROMPTS, context_of, curve, events

pytestmark = [pytest.mark.slow, pytest.mark.long]
NUM_STEPS = 4
SECTION: dict[str, Any] = {
    "num_steps": NUM_STEPS,
    "prompts_per_step": 16,
    "sampling": {"max_tokens": 24},
    "optim": {"learning_rate": 3e-4, "batch_size": 8, "epochs": 2},
    "kl": {"coefficient": 0.05, "target": 3.0, "horizon": 100},
    "scores": {"normalise": "standardise", "clip": 4.0},
    "samples_kept": 4,
    "workers": {"threads": 1},
}
# Run by a driver of its own, so that it can be killed.
DRIVER = """
import sys
from tests.cluster.test_train_ppo import train
train(sys.argv[1], sys.argv[2], sys.argv[3])
"""


def context(folder: Path | str, policy: Path | str, scores: Path | str) -> Context:
    rows = []
    for number, request in enumerate(sample_prompts(40, seed=2, split="train")):
        messages = list(request.messages)
        rows.append(
            {
                "prompt_id": prompt_id_of(messages, "ppo"),
                "messages": messages,
                "kind": "red_team",
                "source": "ppo",
                "source_row": f"ppo:{number}",
                "category": request.category,
                "split": "train",
                "license": None,
            }
        )
    made = context_of(Path(folder), Path(policy), rows)
    engine = EngineConfig(max_num_seqs=32, max_num_batched_tokens=2048, kv_cache_gib=0.5)
    models = {
        "sl_cai": ModelConfig(path=str(policy), engine=engine),
        "preference_model": ModelConfig(path=str(scores)),
    }
    return Context(**{**vars(made), "models": models, "cluster": ClusterConfig(object_store_gib=0.5)})


def train(folder: Path | str, policy: Path | str, scores: Path | str, **changes: Any) -> Artifact:
    config = Config.model_validate(runs.merged(SECTION, changes))
    return train_ppo.run(config, context(folder, policy, scores), PROMPTS)


@pytest.fixture(scope="module")
def scores(micro_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(micro_model, tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def straight(
    ray_session: None, micro_model: Path, scores: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Context, Artifact]:
    folder = tmp_path_factory.mktemp("straight")
    artifact = train(folder, micro_model, scores)
    return context(folder, micro_model, scores), artifact


def assert_same(found: Context, expected: Context) -> None:
    ours, theirs = curve(found), curve(expected)
    assert [step["step"] for step in ours] == list(range(1, NUM_STEPS + 1))
    for step, other in zip(ours, theirs, strict=True):
        assert step == pytest.approx(other, rel=1e-2, abs=1e-3), f"step {step['step']}"


def descendants(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with_name = [process.name(), *(process.cmdline() if process.is_running() else [])]
        if any(name in part for part in with_name):
            found.append(process)
    return found


@contextmanager
def killing(find_victim: Callable[[], psutil.Process | None], when: Callable[[], bool]) -> Iterator[list[int]]:
    """Kill a process, once, as soon as it is time; the list then holds its id."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if when() and (victim := find_victim()) is not None:
                os.kill(victim.pid, signal.SIGKILL)
                killed.append(victim.pid)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def steps_done(folder: Path) -> int:
    path = folder / "train_ppo" / "metrics.jsonl"
    return path.read_text().count('"num_steps"') if path.exists() else 0


def test_a_policy_learns_and_is_saved_as_a_stock_model(straight: tuple[Context, Artifact], micro_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, artifact = straight
    steps = curve(where)
    assert [step["policy_lag"] for step in steps] == [0] * NUM_STEPS
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4) and all(step["kl"] > 0.01 for step in steps[1:])
    assert all(step["sampler_gap"] < 1e-3 for step in steps), "the engines have the learners' weights, at every step"
    assert all(step["updates"] == 4 and step["updates_skipped"] == 0 for step in steps)
    assert {row["policy_version"] - row["step"] for row in artifact.rows()} == {-1}
    assert artifact.manifest.rows_out == 4 * NUM_STEPS
    folder = Path(artifact.folder.path("model"))
    trained = AutoModelForCausalLM.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(micro_model)
    assert not torch.equal(trained.lm_head.weight, before.lm_head.weight)
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(micro_model).chat_template
    )
    assert "`" in (folder / "README.md").read_text()
    assert {"model/config.json", "model/model.safetensors"} <= {file.name for file in artifact.manifest.model_files}


def test_a_killed_driver_goes_on(
    straight: tuple[Context, Artifact], micro_model: Path, scores: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    log = tmp_path / "log"
    driver = runs.start([sys.executable, "-c", DRIVER, str(folder), str(micro_model), str(scores)], log)
    snapshot = folder / "train_ppo" / "snapshots" / "step-2.a1.json"
    runs.wait_for(lambda: snapshot.exists() or driver.poll() is not None, 300, "the snapshot of step 2")
    assert driver.poll() is None, log.read_text()[-3000:]
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    train(folder, micro_model, scores)
    found = context(folder, micro_model, scores)
    assert events(found)[0].startswith("resumed from the snapshot of step ")
    assert_same(found, straight[0])


def test_a_killed_engine_and_a_killed_learner_cost_no_more_than_their_step(
    straight: tuple[Context, Artifact], micro_model: Path, scores: Path, tmp_path: Path
) -> None:
    def one(name: str) -> Callable[[], psutil.Process | None]:
        return lambda: next(iter(descendants(name)), None)

    with (
        killing(one("VLLM::EngineCor"), lambda: steps_done(tmp_path) >= 1) as engine,
        killing(one("ray::RayTrainWorker"), lambda: steps_done(tmp_path) >= 2) as learner,
    ):
        train(tmp_path, micro_model, scores)
    assert engine and learner
    found = context(tmp_path, micro_model, scores)
    said = events(found)
    assert sum(event.startswith("a learner was lost") for event in said) == 1
    assert sum("rollout engines were lost and started anew: 1" in event for event in said) == 1
    assert_same(found, straight[0])
    assert steps_done(tmp_path) <= NUM_STEPS + 1


def test_one_step_off_policy_with_two_engines_and_without_values(
    ray_session: None, micro_model: Path, scores: Path, tmp_path: Path
) -> None:
    train(
        tmp_path,
        micro_model,
        scores,
        asynchronous=True,
        samples_per_prompt=2,
        advantage={"kind": "grpo"},
        rollouts={"num_engines": 2},
    )
    steps = curve(context(tmp_path, micro_model, scores))
    assert [step["policy_lag"] for step in steps] == [0, 1, 1, 1]
    assert steps[0]["sampler_gap"] < 1e-3 < steps[2]["sampler_gap"], "the samples of a policy that is one step old"
    artifact = find(context(tmp_path, micro_model, scores).folder(train_ppo.STAGE))
    assert artifact is not None and artifact.manifest.counters["num_episodes"] == 32 * NUM_STEPS
