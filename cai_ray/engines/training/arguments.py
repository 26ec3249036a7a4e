"""From our configs to the arguments of a Hugging Face Trainer and of DeepSpeed. Pure arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai_ray.config import OptimConfig, WorkersConfig
from cai_ray.errors import ConfigError

# Keyword arguments for transformers.TrainingArguments or a subclass (SFTConfig, RewardConfig, DPOConfig).
TrainerArgs = dict[str, Any]

LARGEST_AUTO_MICRO_BATCH = 16
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@dataclass(frozen=True)
class BatchPlan:
    """How one step's examples are spread: batch_size = num_workers x micro_batch_size x accumulation_steps."""

    num_workers: int
    micro_batch_size: int
    accumulation_steps: int


@dataclass(frozen=True)
class Device:
    """What a worker trains on."""

    is_gpu: bool
    has_bf16: bool  # trains in bfloat16 with float32 master weights; else in float32


def most_per_pass(is_gpu: bool, is_small: bool) -> int:
    """Examples of one pass and worker, where the recipe does not say.

    On a CPU one example of a model that is not small (`has_small_weights`) keeps every core busy, and to pad it to the
    longest of a batch is work for nothing: SmolLM2-135M on hh-rlhf learns 1.8x the tokens/s one by one.
    """
    return LARGEST_AUTO_MICRO_BATCH if is_gpu or is_small else 1


def plan_batches(batch_size: int, workers: WorkersConfig, most: int = LARGEST_AUTO_MICRO_BATCH) -> BatchPlan:
    """`most`: see `most_per_pass`.

    Raises ConfigError when `batch_size` cannot be spread evenly: the step would not be what the recipe says.
    """
    num_workers, micro = workers.num_workers, workers.micro_batch_size
    if batch_size % num_workers:
        raise ConfigError(
            f"batch_size={batch_size} is not a multiple of num_workers={num_workers}; "
            f"make it {_next_multiple(batch_size, num_workers)} or change num_workers"
        )
    per_worker = batch_size // num_workers
    if micro is None:
        micro = max(d for d in range(1, min(per_worker, most) + 1) if per_worker % d == 0)
    if per_worker % micro:
        raise ConfigError(
            f"batch_size={batch_size} is not a multiple of num_workers={num_workers} x micro_batch_size={micro}"
            f"={num_workers * micro}; make it {_next_multiple(batch_size, num_workers * micro)} "
            "or choose a micro_batch_size that divides it"
        )
    return BatchPlan(num_workers, micro, per_worker // micro)


def _next_multiple(value: int, of: int) -> int:
    return -(-value // of) * of


def deepspeed_config(workers: WorkersConfig, device: Device) -> dict[str, Any] | None:
    """DeepSpeed's JSON for `workers`; None where it has nothing to do: one CPU worker that offloads nothing.

    What the Trainer knows better (batch sizes, clipping, precision) is "auto". Raises ConfigError for
    offloading that the ZeRO stage does not know.
    """
    if workers.offload_optimizer and workers.zero_stage == 0:
        raise ConfigError("offload_optimizer needs zero_stage 1, 2 or 3, and zero_stage is 0; raise it")
    if workers.offload_weights and workers.zero_stage != 3:
        raise ConfigError(f"offload_weights needs zero_stage 3, and zero_stage is {workers.zero_stage}; set it to 3")
    if workers.num_workers == 1 and not (device.is_gpu or workers.offload_optimizer or workers.offload_weights):
        return None  # on a GPU it also keeps float32 master weights of a bfloat16 model
    zero: dict[str, Any] = {"stage": workers.zero_stage}
    if workers.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.is_gpu}
    if workers.zero_stage == 3:
        # Without it, saving writes a model of empty weights (the name says 16 bit, it means the trained precision).
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if workers.offload_weights:
            zero["offload_param"] = {"device": "cpu", "pin_memory": device.is_gpu}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # The Trainer's AdamW, also for offloaded states: DeepSpeed's own is compiled on first use.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }


def trainer_args(
    *,
    output_dir: str,
    seed: int,
    optim: OptimConfig,
    workers: WorkersConfig,
    device: Device,
    evaluate: bool,
    run_name: str,
    is_small: bool,
) -> TrainerArgs:
    """Everything the Trainer is told. Which checkpoints stay, and which is best, `engines.checkpoints` decides.

    Evaluation goes with each checkpoint and the last step, so that every checkpoint knows its eval loss. Its passes are
    as wide as can be: a mean of passes' means depends on them.
    """
    plan = plan_batches(optim.batch_size, workers, most_per_pass(device.is_gpu, is_small))
    return {
        "output_dir": output_dir,
        "run_name": run_name,
        "seed": seed,
        "data_seed": seed,
        # one update
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": SCHEDULES[optim.schedule],
        "warmup_steps": optim.warmup_steps,
        # Fused it rounds otherwise, and only a larger model's update is long enough to gain by it.
        "optim": "adamw_torch" if is_small else "adamw_torch_fused",
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "max_grad_norm": optim.max_grad_norm,
        "per_device_train_batch_size": plan.micro_batch_size,
        "per_device_eval_batch_size": plan_batches(optim.batch_size, workers).micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation_steps,
        # how many
        "num_train_epochs": optim.epochs,
        "max_steps": optim.max_steps if optim.max_steps is not None else -1,
        # where and how
        # Also under DeepSpeed: without it, Accelerate takes every CPU worker for the only one.
        "use_cpu": not device.is_gpu,
        "dataloader_pin_memory": device.is_gpu,
        "bf16": device.has_bf16,
        "gradient_checkpointing": workers.gradient_checkpointing,
        "deepspeed": deepspeed_config(workers, device),
        # every step is logged, so that a loss that is no number is seen at once; by default it would be hidden
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": workers.steps_per_checkpoint,
        "save_total_limit": None,
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": workers.steps_per_checkpoint if evaluate else None,
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": list(workers.report_to) or "none",
    }
