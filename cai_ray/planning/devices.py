"""GPUs and CPUs: memory, speed, price. Every number is an assumption that `cai-ray plan` prints and can override.

Tested in tests/planning/test_arithmetic.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field, ValidationError

from cai_ray.config import Config
from cai_ray.errors import ConfigError

GIB = 2**30


class Device(Config):
    """One accelerator, or the CPU of one machine. Peak numbers are the makers'; dense, not sparse."""

    name: str
    memory_gib: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0, description="Peak, 1e12 floating point operations per second.")
    bandwidth_tb_s: float = Field(gt=0, description="Memory bandwidth, 1e12 bytes per second.")
    dollars_per_hour: float = Field(ge=0, description="An on-demand cloud price per device; prices vary threefold.")
    is_gpu: bool = True


DEVICES = {
    device.name: device
    for device in (
        Device(name="H200", memory_gib=131, bf16_tflops=989, bandwidth_tb_s=4.8, dollars_per_hour=3.5),
        Device(name="H100", memory_gib=74, bf16_tflops=989, bandwidth_tb_s=3.35, dollars_per_hour=2.7),
        Device(name="A100", memory_gib=74, bf16_tflops=312, bandwidth_tb_s=2.0, dollars_per_hour=1.7),
        Device(name="L40S", memory_gib=44, bf16_tflops=362, bandwidth_tb_s=0.86, dollars_per_hour=1.2),
        Device(name="A10G", memory_gib=22, bf16_tflops=70, bandwidth_tb_s=0.6, dollars_per_hour=1.0),
    )
}
CPU = Device(
    name="CPU", memory_gib=8, bf16_tflops=0.15, bandwidth_tb_s=0.02, dollars_per_hour=0, is_gpu=False
)  # two cores of a laptop, computing in float32


class Assumptions(Config):
    """What the arithmetic takes for granted; `--assume name=value` changes one."""

    anchor_output_tokens_per_s: float = Field(
        6400, gt=0, description="vLLM, output tokens/s of an 8B model on one H100 with a full batch (measured)."
    )
    most_output_tokens_per_s: float = Field(
        40_000, gt=0, description="Of one GPU engine, however small the model: its scheduler is the bound then."
    )
    prefill_mfu: float = Field(0.4, gt=0, le=1, description="Share of peak FLOPs reached while reading prompts.")
    train_mfu: float = Field(0.35, gt=0, le=1, description="Share of peak FLOPs reached in training.")
    tensor_parallel_efficiency: float = Field(0.85, gt=0, le=1, description="Per GPU, when an engine has several.")
    cpu_output_tokens_per_s: float = Field(
        1300, gt=0, description="Most of one CPU engine, however small the model (measured: micro model, two cores)."
    )
    engine_start_s: float = Field(120, ge=0, description="Load weights and capture graphs on a GPU, per stage.")
    training_start_s: float = Field(180, ge=0, description="Start workers, load, and save, on GPUs.")
    cpu_start_s: float = Field(25, ge=0, description="The same on a CPU, per engine or group of workers.")
    cpu_step_s: float = Field(0.2, ge=0, description="Least time of an optimiser step on a CPU.")
    gpu_step_s: float = Field(0.5, ge=0, description="Least time of an optimiser step on GPUs.")
    answer_share: float = Field(0.7, gt=0, le=1, description="Mean length of an answer, of its max_tokens.")
    critique_share: float = Field(0.6, gt=0, le=1)
    revision_share: float = Field(0.7, gt=0, le=1)
    reasoning_share: float = Field(0.5, gt=0, le=1, description="Of a judge's chain of thought.")
    thinking_share: float = Field(0.5, gt=0, le=1, description="Of a reasoning model's thinking.max_tokens.")
    prompt_tokens: int = Field(60, ge=1, description="Of a prompt whose file cannot be read here.")
    pair_answer_tokens: int = Field(80, ge=1, description="Of an answer in human pairs that cannot be read here.")


class Hardware(Config):
    """What a plan is for."""

    device: Device
    num_devices: int = Field(ge=1)
    assumptions: Assumptions = Assumptions()

    @property
    def label(self) -> str:
        return f"{self.num_devices}x{self.device.name}" if self.device.is_gpu else "this machine's CPU"


def hardware(gpus: str | None, price: float | None = None, assume: Sequence[str] = ()) -> Hardware:
    """ "8xH200" -> eight of them; None: the CPU. Raises ConfigError.

    Args:
        price: dollars per device and hour, in place of the table's.
        assume: "name=value" for each assumption that is to be another one.
    """
    try:
        assumptions = Assumptions.model_validate(dict(_assumed(text) for text in assume))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--assume {first['loc'][0]}={first['input']}: {first['msg']}; known: {', '.join(Assumptions.model_fields)}"
        ) from None
    device, number = (CPU, 1) if gpus is None else _parsed(gpus)
    if price is not None:
        device = device.model_copy(update={"dollars_per_hour": price})
    return Hardware(device=device, num_devices=number, assumptions=assumptions)


def _assumed(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--assume {text!r} is not name=value; names: {', '.join(Assumptions.model_fields)}")
    return name.strip(), value.strip()


def _parsed(gpus: str) -> tuple[Device, int]:
    found = re.fullmatch(r"(?:(\d+)\s*[xX*])?\s*([A-Za-z0-9]+)", gpus.strip())
    known = ", ".join(DEVICES)
    if found is None or int(found[1] or 1) < 1:
        raise ConfigError(f"--gpus {gpus!r} is not a number and a kind; write for example 8xH200 (kinds: {known})")
    device = DEVICES.get(found[2].upper())
    if device is None:
        raise ConfigError(f"--gpus {gpus!r}: kind {found[2]!r} is unknown; kinds: {known}")
    return device, int(found[1] or 1)
