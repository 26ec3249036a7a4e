"""Batch arithmetic, DeepSpeed's config, and what a Trainer is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.config import OptimConfig, WorkersConfig
from cai_ray.engines.training.arguments import (
    LARGEST_AUTO_MICRO_BATCH,
    SCHEDULES,
    Device,
    deepspeed_config,
    plan_batches,
    trainer_args,
)
from cai_ray.errors import ConfigError

CPU = Device(is_gpu=False, has_bf16=False)
GPU = Device(is_gpu=True, has_bf16=True)


@given(st.integers(1, 16), st.integers(1, 64))
def test_a_step_is_exactly_the_batch(num_workers: int, per_worker: int) -> None:
    plan = plan_batches(num_workers * per_worker, WorkersConfig(num_workers=num_workers))
    assert plan.num_workers * plan.micro_batch_size * plan.accumulation_steps == num_workers * per_worker
    assert plan.micro_batch_size <= LARGEST_AUTO_MICRO_BATCH


@pytest.mark.parametrize(
    ("batch_size", "workers", "words"),
    [
        (30, {"num_workers": 4}, ["batch_size=30", "num_workers=4", "make it 32"]),
        (24, {"num_workers": 2, "micro_batch_size": 8}, ["batch_size=24", "micro_batch_size=8", "make it 32"]),
        (2, {"micro_batch_size": 4}, ["batch_size=2", "micro_batch_size=4"]),
    ],
)
def test_a_batch_that_cannot_be_spread_is_refused(batch_size: int, workers: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_batches(batch_size, WorkersConfig(**workers))
    assert all(word in str(refused.value) for word in words)


def test_micro_batch_and_accumulation() -> None:
    plan = plan_batches(96, WorkersConfig(num_workers=2, micro_batch_size=8))
    assert (plan.micro_batch_size, plan.accumulation_steps) == (8, 6)


@pytest.mark.parametrize(
    ("device", "is_small", "passes"), [(CPU, True, (8, 1)), (CPU, False, (1, 8)), (GPU, False, (8, 1))]
)
def test_on_a_cpu_a_larger_model_learns_one_by_one(device: Device, is_small: bool, passes: tuple[int, int]) -> None:
    found = arguments(OptimConfig(batch_size=8), device, is_small)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == passes
    assert found["per_device_eval_batch_size"] == 8  # a mean of passes' means: the same on every device


def test_what_the_recipe_says_of_passes_goes() -> None:
    found = arguments(OptimConfig(batch_size=8), is_small=False, micro_batch_size=4)
    assert found["per_device_train_batch_size"] == found["per_device_eval_batch_size"] == 4


def test_one_cpu_worker_needs_no_deepspeed() -> None:
    assert deepspeed_config(WorkersConfig(zero_stage=3), CPU) is None
    assert deepspeed_config(WorkersConfig(zero_stage=2), GPU) is not None  # keeps float32 master weights


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_zero_stage(stage: Any) -> None:
    config = deepspeed_config(WorkersConfig(num_workers=2, zero_stage=stage), CPU)
    assert config is not None
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)


def test_offloading() -> None:
    workers = WorkersConfig(zero_stage=3, offload_optimizer=True, offload_weights=True)
    config = deepspeed_config(workers, GPU)
    assert config is not None
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"


@pytest.mark.parametrize(
    "workers", [{"zero_stage": 0, "offload_optimizer": True}, {"zero_stage": 2, "offload_weights": True}]
)
def test_offloading_that_the_stage_does_not_know_is_refused(workers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="zero_stage"):
        deepspeed_config(WorkersConfig(**workers), GPU)


def arguments(optim: OptimConfig, device: Device = CPU, is_small: bool = True, **workers: Any) -> dict[str, Any]:
    return trainer_args(
        output_dir="out",
        seed=1,
        optim=optim,
        workers=WorkersConfig(**workers),
        device=device,
        evaluate=True,
        run_name="x",
        is_small=is_small,
    )


def test_every_field_of_the_optimiser_arrives() -> None:
    optim = OptimConfig(
        learning_rate=3e-4,
        schedule="cosine",
        warmup_steps=7,
        weight_decay=0.1,
        betas=(0.8, 0.95),
        max_grad_norm=0.5,
        batch_size=12,
        epochs=1.5,
        max_steps=9,
    )
    found = arguments(optim, num_workers=2, micro_batch_size=3)
    expected = {
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 7,
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "max_grad_norm": 0.5,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1.5,
        "max_steps": 9,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert arguments(OptimConfig())["max_steps"] == -1


def test_precision_and_device() -> None:
    assert (arguments(OptimConfig())["use_cpu"], arguments(OptimConfig())["bf16"]) == (True, False)
    on_gpu = arguments(OptimConfig(), GPU)
    assert (on_gpu["use_cpu"], on_gpu["bf16"]) == (False, True)


@pytest.mark.slow
def test_transformers_knows_every_argument() -> None:
    from dataclasses import fields

    from transformers import SchedulerType, TrainingArguments

    found = arguments(OptimConfig())
    assert set(found) <= {field.name for field in fields(TrainingArguments)}
    assert set(SCHEDULES.values()) <= {schedule.value for schedule in SchedulerType}
