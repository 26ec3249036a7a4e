"""An update happens only when it is allowed; what DeepSpeed is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from cai_ray.config import OptimConfig, WorkersConfig
from cai_ray.engines.learners.optim import Trained, deepspeed_settings
from cai_ray.engines.training.arguments import Device

CPU, GPU = Device(is_gpu=False, has_bf16=False), Device(is_gpu=True, has_bf16=True)
OPTIM = OptimConfig(learning_rate=0.1, schedule="linear", max_grad_norm=1.0)


def trained() -> Trained:
    torch.manual_seed(0)
    return Trained(torch.nn.Linear(3, 1), OPTIM, WorkersConfig(), CPU, total_updates=10)


def step(model: Trained, allowed: bool) -> list[float]:
    norms: list[float] = []

    def judge(norm: float) -> bool:
        norms.append(norm)
        return allowed

    model.backward(model.net(torch.ones(2, 3)).sum())
    model.backward(model.net(torch.ones(1, 3)).sum())
    assert model.step(judge) is allowed
    return norms


def test_a_refused_update_changes_nothing_and_leaves_no_gradient() -> None:
    model = trained()
    before = model.module.weight.clone()
    assert step(model, allowed=False) == pytest.approx(
        [6.0]
    )  # gradients of both passes, before clipping: 3 in each of 4
    assert torch.equal(model.module.weight, before)
    assert model.module.weight.grad is None
    assert model.learning_rate == pytest.approx(0.1)
    # Not even the optimizer remembers it.
    other = trained()
    step(model, allowed=True)
    step(other, allowed=True)
    assert_close(model.module.weight, other.module.weight)
    assert model.learning_rate == pytest.approx(0.09)


def test_nothing_happens_unasked() -> None:
    model = trained()
    before = model.module.weight.clone()
    model.backward(model.net(torch.ones(2, 3)).sum())
    model._optimizer.step()  # as DeepSpeed does when it starts
    assert torch.equal(model.module.weight, before)


def test_a_saved_model_goes_on_as_if_nothing_had_been(tmp_path: Any) -> None:
    model = trained()
    step(model, allowed=True)
    model.save(tmp_path)
    other = trained()
    other.load(tmp_path)
    for each in (model, other):
        step(each, allowed=True)
    assert torch.equal(model.module.weight, other.module.weight)
    assert model.learning_rate == other.learning_rate


@pytest.mark.parametrize(
    ("workers", "device", "stage", "clipping", "bf16"),
    [
        ({"num_workers": 2, "zero_stage": 0}, CPU, 0, 0.0, False),  # DeepSpeed would clip before the norm is seen
        ({"num_workers": 2, "zero_stage": 2}, CPU, 2, 1.0, False),
        ({"zero_stage": 0}, GPU, 1, 1.0, True),  # bfloat16 needs float32 masters
        ({"zero_stage": 3, "offload_weights": True, "offload_optimizer": True}, GPU, 3, 1.0, True),
    ],
)
def test_what_deepspeed_is_told(
    workers: dict[str, Any], device: Device, stage: int, clipping: float, bf16: bool
) -> None:
    settings = deepspeed_settings(WorkersConfig(**workers), device, OPTIM)
    assert settings is not None
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["gradient_clipping"] == clipping
    assert settings["bf16"] == {"enabled": bf16}
    assert "auto" not in str(settings)
    assert ("offload_param" in settings["zero_optimization"]) == bool(workers.get("offload_weights"))


def test_one_cpu_worker_needs_no_deepspeed() -> None:
    assert deepspeed_settings(WorkersConfig(), CPU, OPTIM) is None
