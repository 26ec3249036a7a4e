"""What the learners of PPO are told, and how they fail. Light: recipes and stages import it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from cai_ray.algorithms.guards import GuardConfig
from cai_ray.algorithms.policy_losses import PolicyLossConfig, ValueLossConfig
from cai_ray.artifacts.storage import Storage
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.training.arguments import Device, deepspeed_config
from cai_ray.errors import ConfigError


class LearnersConfig(WorkersConfig):
    """How PPO's learners spread over the cluster. Changes speed and memory, not results."""

    steps_per_checkpoint: int = Field(1, ge=1, description="PPO steps per snapshot.")
    tokens_per_pass: int | None = Field(
        None,
        ge=1,
        description="Tokens of one forward pass, padding included; a longer sequence has one of its own. null: 4096 on "
        "GPUs, 1024 on CPUs.",
    )
    start_limit_s: float = Field(1200.0, gt=0, description="All learners are up by then, at first and after a loss.")
    call_limit_s: float = Field(7200.0, gt=0, description="One call (a step's updates, a snapshot) is over by then.")

    def pass_tokens(self, is_gpu: bool) -> int:
        """`tokens_per_pass`, or what suits the device: few enough for a core's cache (measured, 1.2x of 4096)."""
        return self.tokens_per_pass or (4096 if is_gpu else 1024)

    @model_validator(mode="after")
    def _passes_are_sized_by_tokens(self) -> LearnersConfig:
        if self.micro_batch_size is not None:
            raise ValueError(
                f"micro_batch_size={self.micro_batch_size}: PPO sizes its passes by tokens; set tokens_per_pass"
            )
        return self


class LearnersLost(Exception):
    """Workers were lost and others have started (or are about to) with the initial models.

    `Learners.load` brings them back to a snapshot; then the step can be done again.
    """


class LearnersDiverged(Exception):
    """The guards said stop (exit code 1); the message says why. No bad update was learned from."""


@dataclass(frozen=True)
class LearnersJob:
    """What to learn, from which models. Everything in it is picklable."""

    stage: str
    folder: Storage  # the stage's; snapshots/ and model/ are made in it
    seed: int
    policy: ModelConfig  # and, frozen, the reference
    reward: ModelConfig | None  # a sequence classifier with one output; None: scores come from elsewhere
    value: ModelConfig | None  # a classifier with one output, or a language model (its head starts at zero); None: none
    optim: OptimConfig  # batch_size: answers per update; epochs: whole passes over a step's answers
    value_optim: OptimConfig
    total_updates: int  # of the whole run, for the schedule
    workers: LearnersConfig
    loss: PolicyLossConfig
    value_loss: ValueLossConfig
    guards: GuardConfig
    temperature: float = 1.0  # > 0, the sampler's
    lora: LoraConfig | None = None  # of the policy; the reference is then the policy without adapters
    reward_optim: OptimConfig | None = None  # of a reward model that learns too, when it is told; None: it is frozen

    @property
    def num_epochs(self) -> int:
        return int(self.optim.epochs)


def check(job: LearnersJob) -> None:
    """What can be wrong without a look at models or the cluster. Raises ConfigError."""
    if job.temperature <= 0:
        raise ConfigError(f"temperature={job.temperature}: greedy answers have no log-probability to learn; set it > 0")
    if not job.optim.epochs.is_integer():
        raise ConfigError(f"epochs={job.optim.epochs:g} must be whole: passes over each step's answers")
    if job.total_updates < 1:
        raise ConfigError(f"total_updates={job.total_updates} must be at least 1")
    if job.lora is not None and job.lora.dropout:
        raise ConfigError(
            f"lora.dropout={job.lora.dropout:g}: the policy would differ from the one that answered; set it to 0"
        )
    deepspeed_config(job.workers, Device(is_gpu=False, has_bf16=False))
