"""Weight sync where GPUs are: NCCL between two devices, host memory and sleep/wake on one that is shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_ray.algorithms.episodes import EpisodeRequest
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.engines.models.agreement import TOLERANCE
from cai_ray.engines.rollouts.engines import RolloutConfig, RolloutEngines
from cai_ray.engines.rollouts.sync import WeightSync, WeightSyncFailed
from tests.small_policies import SmallLearners, save_small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
BFLOAT16_TOLERANCE = 0.3  # nats; a skipped sync is several nats away
REQUESTS = [EpisodeRequest(f"p{p}", 0, tuple(10 + (7 * p + i) % 200 for i in range(70)), p) for p in range(8)]


class LearnersOnGpu:
    """SmallLearners in a Ray actor with a GPU, as the first training worker is; `share`: the GPU is not asked for."""

    def __init__(self, folder: Path, share: bool) -> None:
        import ray

        environment = {"env_vars": {"CUDA_VISIBLE_DEVICES": "0"}} if share else None
        options = {"num_gpus": 0 if share else 1, "num_cpus": 1, "runtime_env": environment}
        self._actor = ray.remote(SmallLearners).options(**options).remote(folder, "cuda")

    def __getattr__(self, name: str) -> Any:
        import ray

        return lambda *arguments: ray.get(getattr(self._actor, name).remote(*arguments))

    def close(self) -> None:
        import ray

        ray.kill(self._actor)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("policy"), tied=request.param, hidden=256)


def engines(policy: Path, dtype: str, **config: Any) -> RolloutEngines:
    model = ModelConfig(
        path=str(policy),
        dtype=dtype,
        max_model_len=256,
        engine=EngineConfig(max_num_seqs=64, gpu_memory_utilization=0.3, enforce_eager=True),
    )
    return RolloutEngines(model, RolloutConfig(**config), SamplingConfig(max_tokens=32))


@pytest.fixture
def learners(policy: Path, ray_session: None, request: pytest.FixtureRequest) -> Iterator[LearnersOnGpu]:
    started = LearnersOnGpu(policy, share=request.param)
    yield started
    started.close()


def check_syncs(learners: LearnersOnGpu, rollouts: RolloutEngines, tolerance: float) -> None:
    """Three steps; before each sync the proof must fail, after it hold."""
    sync = WeightSync(learners, rollouts)
    for version in (1, 2, 3):
        episodes = rollouts.submit(REQUESTS).result()
        assert {episode.policy_version for episode in episodes} == {version - 1}
        sequences = [(episode.prompt_ids, episode.response_ids) for episode in episodes]
        sync.prove(sequences, learners.logprobs(sequences), tolerance)
        rollouts.sleep()
        learners.step()
        rollouts.wake()
        with pytest.raises(WeightSyncFailed, match="nats apart"):
            sync.prove(sequences, learners.logprobs(sequences), tolerance)
        sync.push(version)
        sync.prove(sequences, learners.logprobs(sequences), tolerance)


@pytest.mark.gpus(2)
@pytest.mark.parametrize("learners", [False], indirect=True, ids=["own-gpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", TOLERANCE), ("bfloat16", BFLOAT16_TOLERANCE)])
def test_nccl_between_two_gpus(learners: LearnersOnGpu, policy: Path, dtype: str, tolerance: float) -> None:
    rollouts = engines(policy, dtype, bucket_bytes=2**18)
    try:
        rollouts.start()
        assert rollouts.transport == "nccl"
        check_syncs(learners, rollouts, tolerance)
    finally:
        rollouts.close()


@pytest.mark.parametrize("learners", [True], indirect=True, ids=["shared-gpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", TOLERANCE), ("bfloat16", BFLOAT16_TOLERANCE)])
def test_host_memory_and_sleep_on_a_shared_gpu(
    learners: LearnersOnGpu, policy: Path, dtype: str, tolerance: float
) -> None:
    rollouts = engines(policy, dtype, sleep=True, bucket_bytes=2**18)
    try:
        rollouts.start()
        assert rollouts.transport == "host"
        check_syncs(learners, rollouts, tolerance)
    finally:
        rollouts.close()


@pytest.mark.parametrize("learners", [True], indirect=True, ids=["shared-gpu"])
def test_an_engine_asleep_leaves_its_memory_to_the_learners(learners: LearnersOnGpu, policy: Path) -> None:
    import torch

    rollouts = engines(policy, "bfloat16", sleep=True)
    try:
        rollouts.start()
        awake, total = torch.cuda.mem_get_info(0)
        rollouts.sleep()
        asleep, _ = torch.cuda.mem_get_info(0)
        assert asleep - awake > 0.2 * total  # of gpu_memory_utilization=0.3
        rollouts.wake()
        assert len(rollouts.submit(REQUESTS).result()) == len(REQUESTS)
    finally:
        rollouts.close()
