"""Ray Train as every training here starts it: one CPU or GPU worker each, lost ones started again.

Tested in tests/cluster/test_training.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cai_ray.config import WorkersConfig
from cai_ray.engines.placement import first_with_room
from cai_ray.errors import ConfigError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

logger = logging.getLogger(__name__)
MAX_PREEMPTIONS = 32  # nodes taken back by a cloud
MAX_STARTS = 60  # tries of a minute each to get all workers up, while a cluster grows or is busy
# Of glibc's malloc: one arena for all threads, no mapping of its own for large blocks, nothing given back.
KEEPING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
# Of the process that calls fit(): relative paths mean what they mean here, and a lost worker is seen soon.
ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


def memory_kept() -> dict[str, str]:
    """Variables that have a process keep its memory from step to step; values the user has set win.

    The C library gives tensors of many MiB back to the system as soon as they are freed, at once in a thread (as Ray
    Train runs a loop in): to have their pages made anew costs 15 to 20% of a 135M model's step on a CPU.
    """
    return {name: os.environ.get(name, value) for name, value in KEEPING.items()}


def torch_trainer(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    *,
    name: str,
    workers: WorkersConfig,
    use_gpu: bool,
    scratch: str,
) -> TorchTrainer:
    """A trainer whose workers run `loop(config)`; Ray Train's own files go to the folder `scratch`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    environment = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", **memory_kept()}
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=use_gpu,
            resources_per_worker=_one_worker(workers, use_gpu),
            label_selector=first_with_room(workers, [_one_worker(workers, use_gpu)] * workers.num_workers) or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=scratch,  # our checkpoints are not reported to it
            failure_config=FailureConfig(
                max_failures=workers.max_failures,
                max_preemption_failures=MAX_PREEMPTIONS,
                controller_failure_limit=MAX_STARTS,
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false", **environment}},
        ),
    )
    trainer._register_sigint_handler = lambda controller: None  # Ctrl-C is heard as everywhere (stopping.py)
    return trainer


def _one_worker(workers: WorkersConfig, use_gpu: bool) -> dict[str, float]:
    """What one reserves, by Ray's names of resources."""
    return {"CPU": workers.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})


def check_room(workers: WorkersConfig, use_gpu: bool, can_grow: bool) -> None:
    """Raises ConfigError when this machine cannot hold all workers at once: Ray Train would wait for more nodes."""
    import ray

    have = ray.cluster_resources()
    for name, each in _one_worker(workers, use_gpu).items():
        amount = workers.num_workers * each
        if amount <= have.get(name, 0):
            continue
        problem = f"num_workers={workers.num_workers} need {amount:g} {name}s and there are {have.get(name, 0):g}"
        if not can_grow:
            raise ConfigError(f"{problem}; lower num_workers or cpus_per_worker")
        logger.warning("%s: waiting for the cluster to grow", problem)
