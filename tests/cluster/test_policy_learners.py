"""PPO's learners on real Ray Train and DeepSpeed: the same step however it is spread, and through lost workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_ray.algorithms.episodes import Scored
from cai_ray.artifacts.files import damage
from cai_ray.artifacts.storage import Storage
from cai_ray.config import LoraConfig, ModelConfig
from cai_ray.engines.learners.job import LearnersDiverged, LearnersLost
from cai_ray.engines.learners.learners import Learners
from cai_ray.errors import ConfigError
from tests.policy_jobs import made_up_step, policy_job, save_reward_model
from tests.training_jobs import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.long]
STEP = made_up_step()


@dataclass(frozen=True)
class Found:
    """What one step gave: before, while and after learning."""

    scored: list[Scored]
    stats: list[dict[str, float]]
    logprobs: list[tuple[float, ...]]


@contextmanager
def running(job: Any, resume: str | None = None) -> Iterator[Learners]:
    learners = Learners(job)
    try:
        learners.start(resume)
        yield learners
    finally:
        learners.close()


def one_step(learners: Learners, step: int = 1) -> Found:
    scored = learners.score(STEP.episodes, STEP.reward_ids)
    advantages, returns = STEP.taught(scored)
    stats = learners.update(STEP.episodes, scored, advantages, returns, step=step, seed=7)
    return Found(scored, stats, learners.logprobs([(e.prompt_ids, e.response_ids) for e in STEP.episodes]))


def assert_same_step(found: Found, expected: Found) -> None:
    for ours, theirs in zip(found.scored, expected.scored, strict=True):
        assert ours.score == pytest.approx(theirs.score, rel=1e-3, abs=1e-5)
        for name in ("logprobs", "ref_logprobs", "values"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-3, abs=1e-4)
    assert len(found.stats) == len(expected.stats) == 4
    # The first update's numbers are of the same weights; later ones of weights that differ by rounding.
    for name, value in expected.stats[0].items():
        assert found.stats[0][name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    for name in ("policy_loss", "value_loss", "grad_norm"):
        assert found.stats[-1][name] == pytest.approx(expected.stats[-1][name], rel=0.05, abs=1e-3), name
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01, abs=0.02)


@pytest.fixture(scope="module")
def reward(micro_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(micro_model, tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def alone(ray_session: None, micro_model: Path, reward: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One worker, without DeepSpeed: what all others are held against. Its folder is checked on the way."""
    folder = tmp_path_factory.mktemp("alone")
    with running(policy_job(folder, micro_model, reward)) as learners:
        found = one_step(learners)
        files = learners.export(Storage(str(folder)), "# card\n")
    assert damage(Storage(str(folder)), files) is None
    assert {"model/model.safetensors", "model/README.md", "model/tokenizer.json"} <= {file.name for file in files}
    return found


def test_the_reference_and_the_scores_are_those_of_the_models(alone: Found, micro_model: Path, reward: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from cai_ray.engines.models.scoring import Scorer

    expected = Scorer(reward).scores(STEP.reward_ids)
    assert [each.score for each in alone.scored] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    model = AutoModelForCausalLM.from_pretrained(micro_model, dtype=torch.float32)
    for episode, each in zip(STEP.episodes, alone.scored, strict=True):
        assert each.logprobs == pytest.approx(each.ref_logprobs, abs=1e-4)
        with torch.no_grad():
            logits = model(torch.tensor([[*episode.prompt_ids, *episode.response_ids]])).logits[0]
        nats = logits[len(episode.prompt_ids) - 1 : -1].log_softmax(-1)
        want = nats[range(len(episode.response_ids)), list(episode.response_ids)]
        assert each.ref_logprobs == pytest.approx(want.tolist(), abs=1e-3)
    assert alone.stats[0]["ratio_min"] == pytest.approx(1, abs=1e-4)
    assert np.mean([len(each) for each in alone.logprobs]) > 1
    moved = [a != b.logprobs for a, b in zip(alone.logprobs, alone.scored, strict=True)]
    assert all(moved)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_workers_one_killed(alone: Found, micro_model: Path, reward: Path, tmp_path: Path, zero_stage: int) -> None:
    """The same numbers as one worker; the same again from the snapshot after a loss."""
    job = policy_job(tmp_path, micro_model, reward, workers={"num_workers": 2, "zero_stage": zero_stage})
    with running(job) as learners:
        first = one_step(learners)
        assert_same_step(first, alone)
        files = learners.save("step-1.a1")
        assert damage(Storage(str(tmp_path)), files) is None
        second = one_step(learners, step=2)
        if zero_stage == 3:
            learners.load("step-1.a1")  # into workers that have gone on
        else:
            os.kill(worker_processes()[-1], signal.SIGKILL)
            with pytest.raises(LearnersLost):
                one_step(learners, step=2)
            learners.load("step-1.a1")
        assert one_step(learners, step=2) == second


def worker_processes() -> list[int]:
    """Process ids of this machine's Ray Train workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::") and b"RayTrainWorker" in command and is_ours(int(folder.name)):
            found.append(int(folder.name))
    return sorted(found)


def is_ours(pid: int) -> bool:
    """A process of the Ray that this test started."""
    import ray

    session = ray.get_runtime_context().gcs_address.encode()
    return session in Path(f"/proc/{pid}/environ").read_bytes() or session in _parent_command(pid)


def _parent_command(pid: int) -> bytes:
    parent = next(
        line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid")
    )
    return Path(f"/proc/{parent}/cmdline").read_bytes()


def test_adapters_a_bucket_and_a_value_model_from_the_policy(
    ray_session: None, micro_model: Path, reward: Path, tmp_path: Path
) -> None:
    """LoRA's reference is the policy without adapters; snapshots on a storage that is elsewhere come back bit-equal."""
    bucket = Bucket(str(tmp_path / "bucket"))
    bucket.make()
    job = policy_job(bucket, micro_model, reward, lora=LoraConfig(rank=4), value=ModelConfig(path=str(micro_model)))
    with running(job) as learners:
        first = one_step(learners)
        assert all(each.logprobs == each.ref_logprobs for each in first.scored)
        assert all(value == 0 for each in first.scored for value in each.values)
        learners.save("step-1.a1")
        after = learners.score(STEP.episodes, STEP.reward_ids)
        assert [each.ref_logprobs for each in after] == [each.ref_logprobs for each in first.scored]
        assert after[0].logprobs != after[0].ref_logprobs
        second = one_step(learners, step=2)
        os.kill(worker_processes()[-1], signal.SIGKILL)
        with pytest.raises(LearnersLost):
            learners.score(STEP.episodes, STEP.reward_ids)
        learners.load(None)
        assert learners.score(STEP.episodes, STEP.reward_ids) == first.scored
        learners.load("step-1.a1")
        assert one_step(learners, step=2) == second


def test_what_cannot_go_on_is_said(ray_session: None, micro_model: Path, reward: Path, tmp_path: Path) -> None:
    from cai_ray.algorithms.guards import GuardConfig

    guards = GuardConfig(max_skips=1, max_grad_norm=1e-9)
    with running(policy_job(tmp_path, micro_model, reward, guards=guards)) as learners:
        before = learners.score(STEP.episodes, STEP.reward_ids)
        with pytest.raises(LearnersDiverged, match=r"minibatch 1: .*max_grad_norm=1e-09.*2 bad updates in a row"):
            one_step(learners)
        assert len(learners.refusals) == 3  # both models, then the policy
        assert learners.score(STEP.episodes, STEP.reward_ids) == before
    with (
        pytest.raises(ConfigError, match="no tokenizer at"),
        running(policy_job(tmp_path, tmp_path / "none", reward)),
    ):
        pass
