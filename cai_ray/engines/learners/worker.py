"""What runs on every PPO worker: build the models, then do what the hub says until it says no more.

Tested in tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

import os
import traceback
import uuid
from pathlib import Path
from typing import Any

from cai_ray.algorithms.guards import GuardState
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.learners import snapshot, weights
from cai_ray.engines.learners.job import LearnersJob
from cai_ray.engines.learners.learning import Guards, Learning
from cai_ray.engines.learners.models import Models, build_models, here
from cai_ray.engines.learners.packing import Packed
from cai_ray.engines.learners.passes import Arrays, Passes
from cai_ray.engines.training import checkpoints
from cai_ray.engines.training.arguments import Device, deepspeed_config
from cai_ray.engines.training.checkpoints import Layout
from cai_ray.engines.training.job import MODEL
from cai_ray.engines.training.worker_group import (
    Place,
    device_of_this_worker,
    is_lost_peer,
    place_of_this_worker,
)
from cai_ray.errors import ConfigError


def serve(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`; `config` has `job` (LearnersJob) and `hub` (the actor).

    Ray Train answers an exception by starting all workers anew. What that cannot mend is told to the hub first.
    """
    import ray

    hub = config["hub"]
    if ray.get(hub.is_over.remote()):
        return
    try:
        _serve(config["job"], hub)
    except Exception as error:
        if not is_lost_peer(error):
            is_config = isinstance(error, ConfigError)
            message = str(error) if is_config else traceback.format_exc()
            ray.get(hub.fail.remote("bad_config" if is_config else "failed", message))
        raise


def _serve(job: LearnersJob, hub: Any) -> None:
    import ray

    place = place_of_this_worker()
    group = place.agree(lambda: uuid.uuid4().hex)
    worker = Worker(job, place, device_of_this_worker())
    ray.get(hub.join.remote(group, place.rank, place.num_workers))
    number = 0
    while (command := ray.get(hub.next.remote(group, number))) is not None:
        number, name, (arguments,) = command
        result = getattr(worker, name)(**ray.get(arguments))
        worker.rest()
        ray.get(hub.answer.remote(group, place.rank, number, result))
        del result, arguments, command  # the step's arrays, which would stay in memory until the next command


class Worker:
    """One worker's models and the commands it knows; every worker is given every command."""

    def __init__(self, job: LearnersJob, place: Place, device: Device) -> None:
        import torch

        if not device.is_gpu:
            torch.set_num_threads(job.workers.threads or max(1, (os.cpu_count() or 1) // place.num_local))
        self._job, self._place, self._device = job, place, device
        zero_stage = job.workers.zero_stage if deepspeed_config(job.workers, device) else None
        self._layout = Layout(num_workers=place.num_workers, zero_stage=zero_stage)
        self._build()

    def _build(self) -> None:
        self._models: Models = build_models(self._job, self._device)
        passes = Passes(self._job.workers, self._place, here())
        self._learning = Learning(self._job, self._place, passes, self._models, Guards(GuardState(), GuardState()))
        self._is_fresh = True

    def score(self, packed: Packed, conversations: Packed | None) -> Arrays:
        return self._learning.score(packed, conversations)

    def rewards(self, conversations: Packed) -> Arrays:
        return self._learning.rewards(conversations)

    def reward_step(self, conversations: Packed) -> dict[str, float]:
        self._is_fresh = False
        return self._learning.reward_step(conversations)

    def logprobs(self, packed: Packed, temperature: float) -> Arrays:
        return self._learning.logprobs(packed, temperature)

    def update(
        self, packed: Packed, num_minibatches: int, step: int, seed: int, other: Packed | None
    ) -> dict[str, Any] | None:
        self._is_fresh = False
        found = self._learning.update(packed, num_minibatches, step, seed, other)
        return found if self._place.is_first else None

    def send_weights(self, info: dict[str, Any]) -> None:
        if not self._place.is_first:
            weights.stream(self._models.policy.module.model, info["bucket_bytes"], None)
            return
        from cai_ray.engines.weights.sender import WeightSender

        sender = WeightSender(info)
        stays = info.get("transport") == "nccl"
        weights.stream(
            self._models.policy.module.model,
            info["bucket_bytes"],
            lambda bucket: sender.send([(name, tensor if stays else tensor.cpu()) for name, tensor in bucket]),
        )
        sender.finish()

    def save(self, name: str) -> list[FileRecord]:
        return snapshot.save(self._place, self._job.folder, name, self._layout, self._write)

    def load(self, name: str | None) -> None:
        """None: the models the job names."""
        if not self._is_fresh:
            self._models.close()
            self._build()
        if name is not None:
            self._is_fresh = False
            snapshot.load(self._place, self._job.folder, name, self._layout, self._read)

    def export(self, folder: Storage, model_card: str) -> list[FileRecord]:
        """`folder`: the stage's, or another; the model comes into its MODEL/."""
        place = self._place
        if place.is_first:
            folder.delete_folder(MODEL)
        with snapshot.folder_of_node(place, folder, MODEL) as target:
            mine = target if place.is_first else None
            models = self._models
            weights.export(models.policy.module.model, models.tokenizer, mine, model_card, models.stored_dtype)
            return checkpoints.commit_files(place, folder, target, MODEL)

    def rest(self) -> None:
        """Between commands a GPU's memory is for whoever samples on it."""
        if self._device.is_gpu:
            import torch

            torch.cuda.empty_cache()

    def _write(self, folder: Path) -> None:
        import torch

        for name, trained in self._models.trained.items():
            trained.save(folder / name)
        guards = {name: state.model_dump_json() for name, state in vars(self._learning.guards).items()}
        torch.save({"guards": guards, "random": _random_states()}, folder / f"worker-{self._place.rank}.pt")

    def _read(self, folder: Path) -> None:
        import torch

        for name, trained in self._models.trained.items():
            trained.load(folder / name)
        states = torch.load(folder / f"worker-{self._place.rank}.pt", weights_only=True)
        guards = {name: GuardState.model_validate_json(state) for name, state in states["guards"].items()}
        self._learning.guards = Guards(**guards)
        _set_random_states(states["random"])


def _random_states() -> dict[str, Any]:
    """Torch's own generators: nothing here draws from another."""
    import torch

    return {"cpu": torch.get_rng_state(), "gpus": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_states(states: dict[str, Any]) -> None:
    import torch

    torch.set_rng_state(states["cpu"])
    if states["gpus"]:
        torch.cuda.set_rng_state_all(states["gpus"])
