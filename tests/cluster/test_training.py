"""Training on real Ray Train and DeepSpeed: the same curve however it is spread, and through every fault."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, ProofConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.training.job import TrainedModel, TrainingDiverged
from cai_ray.engines.training.launcher import train
from cai_ray.engines.training.proof import Proof
from cai_ray.errors import ConfigError
from tests import runs
from tests.training_jobs import Bucket, TinyTraining, save_tiny_model, tiny_job

pytestmark = pytest.mark.slow
NUM_STEPS = 8
# Run by a driver of its own, so that it can be killed.
DRIVER = """
import sys
from pathlib import Path
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.training.launcher import train
from tests.training_jobs import Bucket, TinyTraining, tiny_job
train(tiny_job(Path(sys.argv[1]), TinyTraining(sys.argv[2], step_s=1.0)), ClusterConfig(object_store_gib=0.2))
"""
# The same, as a command is run: it hears SIGTERM and Ctrl-C.
COMMAND = """
import sys
from pathlib import Path
import typer
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.training.launcher import train
from cai_ray.exits import edge
from tests.training_jobs import TinyTraining, tiny_job
job = tiny_job(Path(sys.argv[1]), TinyTraining(sys.argv[2], step_s=1.5), steps_per_checkpoint=50)
try:
    edge(train)(job, ClusterConfig(object_store_gib=0.2))
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("base")))


def run(folder: Path, trainer: TinyTraining, **workers: Any) -> TrainedModel:
    return train(tiny_job(folder, trainer, **workers), ClusterConfig())


def entries(folder: Path) -> list[dict[str, Any]]:
    return parse_metrics(read_metrics(Storage(str(folder))))


def curve(folder: Path) -> dict[int, tuple[float, float]]:
    """Step -> loss and gradient norm, of the last time the step was done."""
    return {e["step"]: (e["loss"], e["grad_norm"]) for e in entries(folder) if "loss" in e}


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in entries(folder) if "event" in entry]


def assert_same_curve(found: Path, expected: dict[int, tuple[float, float]]) -> None:
    steps = curve(found)
    assert sorted(steps) == list(range(1, NUM_STEPS + 1))
    for step, values in expected.items():
        assert steps[step] == pytest.approx(values, rel=1e-3), f"step {step}"


@pytest.fixture(scope="module")
def alone(ray_session: None, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker without faults: what all others are held against."""
    folder = tmp_path_factory.mktemp("alone")
    trained = run(folder, TinyTraining(model))
    assert trained.num_steps == NUM_STEPS
    return folder


def test_the_saved_model_is_a_hugging_face_folder(alone: Path, model: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert not {"optimizer.pt", "training_args.bin", "trainer_state.json"} & set(os.listdir(alone / "model"))
    assert (alone / "model" / "README.md").read_text() == "# tiny\n"
    trained = AutoModelForCausalLM.from_pretrained(alone / "model")
    assert trained.config.use_cache
    before = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.equal(trained.lm_head.weight, before.lm_head.weight)
    assert sorted(os.listdir(alone / "checkpoints")) == [
        "checkpoint-6",
        "checkpoint-6.json",
        "checkpoint-8",
        "checkpoint-8.json",
    ]


def test_two_workers_zero_2_one_killed(alone: Path, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "zero2"
    trainer = TinyTraining(model, die_at=6, once=str(tmp_path / "died"))
    trained = run(folder, trainer, num_workers=2, zero_stage=2)
    assert (tmp_path / "died").exists()
    assert events(folder) == ["resumed from the checkpoint of step 4"]
    assert trained.num_steps == NUM_STEPS
    assert_same_curve(folder, curve(alone))


def test_two_workers_zero_3(alone: Path, model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    answers = (Sampled((3, 4, 5), (6, 7, 8, 9), ()),)
    proof = Proof("tiny", ProofConfig(), ModelConfig(path=model), answers, sampled_in="")
    job = replace(tiny_job(tmp_path, TinyTraining(model), num_workers=2, zero_stage=3), proof=proof)
    trained = train(job, ClusterConfig())
    [told] = events(tmp_path)  # every worker has a share of every weight, and takes part
    assert told.startswith("the learner agrees with plain (eager) attention: ")
    assert trained.num_steps == NUM_STEPS
    assert_same_curve(tmp_path, curve(alone))
    gathered, expected = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, alone))
    assert gathered.keys() == expected.keys()
    for name, weight in expected.items():
        assert_close(gathered[name], weight, rtol=1e-2, atol=1e-4)


def test_a_killed_driver_and_a_truncated_checkpoint(alone: Path, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    driver = runs.start([sys.executable, "-c", DRIVER, str(folder), model], tmp_path / "log")
    record = folder / "checkpoints" / "checkpoint-4.json"
    runs.wait_for(record.exists, 120, "the checkpoint of step 4")
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    weights = folder / "checkpoints" / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    # The killed driver's worker lives on for some seconds; the folder is no longer its own.
    trained = run(folder, TinyTraining(model))
    damaged, resumed = events(folder)
    assert "step 4 is damaged" in damaged and "model.safetensors" in damaged
    assert resumed == "resumed from the checkpoint of step 2"
    assert trained.num_steps == NUM_STEPS
    assert_same_curve(folder, curve(alone))
    assert {entry["attempt"] for entry in entries(folder)} == {1, 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_told_to_end_saves_a_checkpoint(
    number: signal.Signals, alone: Path, model: str, tmp_path: Path
) -> None:
    folder, log = tmp_path / "stage", tmp_path / "log"
    driver = runs.start([sys.executable, "-c", COMMAND, str(folder), model], log)
    runs.wait_for(lambda: 3 in curve(folder) or driver.poll() is not None, 120, "step 3")
    driver.send_signal(number)
    assert driver.wait(20) == 75, log.read_text()
    assert f"stopped by {number.name}" in log.read_text() and "Traceback" not in log.read_text()
    last = max(curve(folder))
    assert 3 <= last < NUM_STEPS
    assert run(folder, TinyTraining(model)).num_steps == NUM_STEPS
    assert events(folder) == [
        "the driver was asked to end: a checkpoint is saved",
        f"resumed from the checkpoint of step {last}",
    ]
    assert_same_curve(folder, curve(alone))
    assert len([entry for entry in entries(folder) if "loss" in entry]) == NUM_STEPS, "no step twice"


def test_numbers_gone_bad_end_the_run_at_once(alone: Path, model: str, tmp_path: Path) -> None:
    bucket = Bucket(str(tmp_path / "bucket"))
    bucket.make()
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 6.*checkpoints/checkpoint-4"):
        train(tiny_job(bucket, TinyTraining(model, nan_at=6)), ClusterConfig())
    folder = tmp_path / "bucket"
    assert (max(curve(folder)), events(folder)) == (6, [])  # nothing was tried again
    assert sorted(os.listdir(folder / "checkpoints")) == [
        "checkpoint-2",
        "checkpoint-2.json",
        "checkpoint-4",
        "checkpoint-4.json",
    ]
    assert not (folder / "model").exists()

    # The cause mended: it goes on from the good checkpoint, which is fetched from the bucket.
    assert train(tiny_job(bucket, TinyTraining(model)), ClusterConfig()).num_steps == NUM_STEPS
    assert events(folder) == ["resumed from the checkpoint of step 4"]
    assert_same_curve(folder, curve(alone))
    assert (folder / "model" / "model.safetensors").read_bytes() == (alone / "model" / "model.safetensors").read_bytes()


def test_what_a_worker_refuses_reaches_the_driver(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not for training"):
        run(tmp_path, TinyTraining("", refuses=True))
