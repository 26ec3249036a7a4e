"""Requests and training passes -> seconds and memory on a device. First-order arithmetic, every constant stated.

Tested in tests/planning/test_arithmetic.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cai_ray.config import EngineConfig, LoraConfig, WorkersConfig
from cai_ray.planning.devices import DEVICES, GIB, Hardware
from cai_ray.planning.sizes import Shape
from cai_ray.planning.stand_in_engine import NO_USE, Usages

ANCHOR_PARAMS = 8.03e9
OVERHEAD_GIB = 2.0  # CUDA context, communication buffers, fragments


@dataclass(frozen=True)
class Memory:
    """What the fullest device must hold."""

    needed_gib: float
    have_gib: float
    what: str

    @property
    def fits(self) -> bool:
        return self.needed_gib <= self.have_gib


@dataclass(frozen=True)
class Work:
    """One stage on the hardware."""

    seconds: float
    num_devices: int  # used; the others are idle, and paid for
    memory: Memory | None = None


IDLE = Work(0.0, 0)


def together(works: Sequence[Work]) -> Work:
    """One after the other; the memory is that of the fullest."""
    memories = [work.memory for work in works if work.memory is not None]
    return Work(
        sum(work.seconds for work in works),
        max((work.num_devices for work in works), default=0),
        max(memories, key=lambda memory: memory.needed_gib / memory.have_gib, default=None),
    )


def side_by_side(works: Sequence[Work], hardware: Hardware) -> Work:
    """At the same time: on GPUs each on its own, on a CPU they share the cores, so the sum stays."""
    if not hardware.device.is_gpu:
        return together(works)
    longest = max((work.seconds for work in works), default=0.0)
    return replace(together(works), seconds=longest, num_devices=sum(work.num_devices for work in works))


@dataclass(frozen=True)
class StagePlan:
    """What a stage would take.

    Attributes:
        trained_tokens: through forward and backward passes, all epochs together.
    """

    stage: str
    rows_in: float
    rows_out: float
    used: Usages = NO_USE
    trained_tokens: float = 0.0
    work: Work = IDLE


# --- Engines ---------------------------------------------------------------------------------------------


def decode_rate(shape: Shape, engine: EngineConfig, hardware: Hardware) -> float:
    """Output tokens/s of one engine: reading weights and cache bounds it, so it goes with the memory's bandwidth."""
    assumed, device = hardware.assumptions, hardware.device
    if not device.is_gpu:
        return min(
            assumed.cpu_output_tokens_per_s, device.bf16_tflops * 1e12 * assumed.prefill_mfu / (2 * shape.params)
        )
    rate = assumed.anchor_output_tokens_per_s * ANCHOR_PARAMS / shape.params
    rate *= device.bandwidth_tb_s / DEVICES["H100"].bandwidth_tb_s
    return min(assumed.most_output_tokens_per_s, rate * _parallel(engine.num_gpus, hardware))


def prefill_rate(shape: Shape, engine: EngineConfig, hardware: Hardware) -> float:
    """Prompt tokens/s of one engine: 2 FLOPs per parameter and token."""
    flops = hardware.device.bf16_tflops * 1e12 * hardware.assumptions.prefill_mfu
    return flops / (2 * shape.params) * _parallel(engine.num_gpus, hardware)


def _parallel(num_gpus: int, hardware: Hardware) -> float:
    return num_gpus * (hardware.assumptions.tensor_parallel_efficiency if num_gpus > 1 else 1.0)


def engine_work(used: Usages, shape: Shape, engine: EngineConfig, max_engines: int, hardware: Hardware) -> Work:
    """A stage of conversations, on as many engines as the recipe allows and the hardware holds."""
    width = engine.num_gpus if hardware.device.is_gpu else 1
    most = hardware.num_devices // width if hardware.device.is_gpu else max_engines
    num_engines = max(1, min(max_engines, most))
    assumed = hardware.assumptions
    start_s = assumed.engine_start_s if hardware.device.is_gpu else assumed.cpu_start_s
    read = (used.prompt_tokens - used.cached_tokens) / prefill_rate(shape, engine, hardware)
    written = used.output_tokens / decode_rate(shape, engine, hardware)
    memory = engine_memory(used, shape, engine, hardware)
    return Work(start_s + (read + written) / num_engines, num_engines * width, memory)


def engine_memory(used: Usages, shape: Shape, engine: EngineConfig, hardware: Hardware) -> Memory:
    """Weights, and the KV cache of at least eight of the longest conversations."""
    device, width = hardware.device, engine.num_gpus
    bytes_per_value = 2 if device.is_gpu else 4
    weights = shape.params * bytes_per_value / width / GIB
    one = max(1.0, used.context_tokens) * shape.kv_bytes(bytes_per_value) / width / GIB
    have = device.memory_gib * engine.gpu_memory_utilization if device.is_gpu else weights + engine.kv_cache_gib
    have -= OVERHEAD_GIB if device.is_gpu else 0
    room = max(0, int((have - weights) / one))
    what = f"weights {weights:,.1f} GiB, cache for {room:,} conversations of {used.context_tokens:,.0f} tokens"
    return Memory(weights + 8 * one, have, what)


# --- Training --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingLoad:
    """What one training stage computes.

    Attributes:
        tokens: through forward and backward, all epochs.
        forward_tokens: through the forward pass only: a reference, or evaluation.
        steps: optimiser steps.
        micro_tokens: of one forward pass of one worker, padding included.
        has_logits: a language-model head computes a loss over the vocabulary.
        frozen_copies: further models that are held and not trained (a reference, a preference model).
        trained_copies: models that are trained at once: 1, or 2 with a value model.
    """

    tokens: float
    forward_tokens: float
    steps: int
    micro_tokens: float
    has_logits: bool = True
    frozen_copies: int = 0
    trained_copies: int = 1


def training_flops(load: TrainingLoad, shape: Shape, lora: LoraConfig | None, workers: WorkersConfig) -> float:
    """6 per parameter and token (2 forward, 4 backward); adapters leave out the weights' gradients: 4."""
    factor = (4 if lora else 6) + (2 if workers.gradient_checkpointing else 0)
    return shape.params * (factor * load.tokens + 2 * load.forward_tokens)


def training_work(
    load: TrainingLoad, shape: Shape, lora: LoraConfig | None, workers: WorkersConfig, hardware: Hardware
) -> Work:
    assumed, device = hardware.assumptions, hardware.device
    speed = device.bf16_tflops * 1e12 * assumed.train_mfu * workers.num_workers
    start_s = assumed.training_start_s if device.is_gpu else assumed.cpu_start_s
    step_s = assumed.gpu_step_s if device.is_gpu else assumed.cpu_step_s
    seconds = max(training_flops(load, shape, lora, workers) / speed, load.steps * step_s)
    return Work(start_s + seconds, workers.num_workers, training_memory(load, shape, lora, workers, hardware))


def training_memory(
    load: TrainingLoad, shape: Shape, lora: LoraConfig | None, workers: WorkersConfig, hardware: Hardware
) -> Memory:
    """Of one worker: bf16 weights and gradients, float32 master weights and two Adam moments (16 bytes a parameter)."""
    stage, num = workers.zero_stage, workers.num_workers
    trained = shape.lora_params(lora.rank) if lora else shape.params
    frozen = shape.params * (load.frozen_copies + (load.trained_copies if lora else 0))
    weights = 2 * frozen / (num if stage == 3 else 1)
    if not lora:
        weights += 0 if workers.offload_weights else 2 * trained * load.trained_copies / (num if stage == 3 else 1)
    gradients = 2 * trained * load.trained_copies / (num if stage >= 2 else 1)
    optimiser = 0 if workers.offload_optimizer else 12 * trained * load.trained_copies / (num if stage >= 1 else 1)
    gathered = 2 * 2 * shape.layer_params if stage == 3 else 0
    activations = load.micro_tokens * _activation_bytes(shape, workers.gradient_checkpointing)
    logits = 10 * load.micro_tokens * shape.vocab if load.has_logits else 0  # bf16, and float32 with its gradient
    states = (weights + gradients + optimiser + gathered) / GIB
    passing = (activations + logits) / GIB
    what = f"weights, gradients, optimiser {states:,.1f} GiB; activations and logits {passing:,.1f} GiB"
    return Memory(states + passing + OVERHEAD_GIB * hardware.device.is_gpu, hardware.device.memory_gib, what)


def _activation_bytes(shape: Shape, checkpointing: bool) -> float:
    """Per token, bf16, attention fused: what the backward pass needs of each layer, or only its input."""
    layer = 12 * shape.hidden + 8 * shape.mlp + 4 * shape.kv_heads * shape.head_dim
    return 2 * shape.hidden * shape.layers + layer if checkpointing else layer * shape.layers
