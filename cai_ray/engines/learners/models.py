"""The four models of a PPO worker: policy and value model that learn, reference and reward model that do not.

Where the job says so the reward model can learn as well, from time to time: it then has an optimizer of its own, whose
states take memory all the time.

Tested in tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from cai_ray.config import ModelConfig, OptimConfig
from cai_ray.engines.learners.job import LearnersJob
from cai_ray.engines.learners.nets import score_net, token_net, turn_dropout_off
from cai_ray.engines.learners.optim import Trained, deepspeed_settings
from cai_ray.engines.models.reading import read_config, read_tokenizer
from cai_ray.engines.models.trainable import load_causal_lm, load_trainable, peft_config, zero_head
from cai_ray.engines.training.arguments import Device
from cai_ray.errors import ConfigError


@dataclass
class Models:
    """`reference` is None when the policy has adapters: it is the policy without them. `value` is None without one.

    `reward` is what gives scores, None where others do; `reward_trained` is behind it where it learns, and None where
    it is frozen.
    """

    tokenizer: Any  # the policy's, as it is stored
    stored_dtype: Any  # of the policy's weights where they came from
    policy: Trained
    value: Trained | None
    reference: Any
    reward: Any
    reward_trained: Trained | None = None

    @property
    def trained(self) -> dict[str, Trained]:
        """Those that learn, by name."""
        found = {"policy": self.policy, "value": self.value, "reward": self.reward_trained}
        return {name: trained for name, trained in found.items() if trained is not None}

    def reference_net(self) -> Any:
        """A context that gives the reference as something to call."""
        if self.reference is not None:
            return nullcontext(self.reference)
        return _without_adapters(self.policy)

    def close(self) -> None:
        """Let go of memory and hooks, before others are built."""
        for trained in self.trained.values():
            trained.close()
        frozen = [self.reference] if self.reward_trained else [self.reference, self.reward]
        for net in frozen:
            if hasattr(net, "destroy"):  # DeepSpeed's
                net.destroy()


@contextmanager
def _without_adapters(policy: Trained) -> Iterator[Any]:
    with policy.module.model.disable_adapter():
        yield policy.net


def build_models(job: LearnersJob, device: Device) -> Models:
    """Load all models on this worker, sharded while they are loaded under ZeRO-3. Raises ConfigError."""
    import torch

    torch.manual_seed(job.seed)  # new adapters start alike on every worker
    settings = deepspeed_settings(job.workers, device, job.optim)
    sharding = None
    if settings is not None:
        import deepspeed  # type: ignore[import-untyped]
        from transformers.integrations import HfDeepSpeedConfig

        deepspeed.init_distributed()  # finds Ray Train's process group
        if job.workers.zero_stage == 3:
            sharding = HfDeepSpeedConfig(settings)  # in force while it is alive
    tokenizer = read_tokenizer(job.policy)  # as it is: nothing here needs a padding token
    policy, value = _policy(job, tokenizer, device), _value(job, device)
    reference = None if job.lora else _frozen(token_net(load_causal_lm(job.policy, tokenizer)), job, device)
    scorer = score_net(_classifier(job.reward)) if job.reward else None
    reward_trained = trained(scorer, job, device, job.reward_optim) if scorer and job.reward_optim else None
    models = Models(
        tokenizer=tokenizer,
        stored_dtype=read_config(job.policy).dtype or torch.float32,
        policy=policy,
        value=value,
        reference=reference,
        reward=reward_trained.net if reward_trained else scorer and _frozen(scorer, job, device),
        reward_trained=reward_trained,
    )
    del sharding
    return models


def _policy(job: LearnersJob, tokenizer: Any, device: Device) -> Trained:
    model = load_causal_lm(job.policy, tokenizer)
    return trained(token_net(with_adapters(model, job) if job.lora else model), job, device, job.optim)


def with_adapters(model: Any, job: LearnersJob) -> Any:
    """The model frozen, with the job's adapters, which learn."""
    import peft

    model.requires_grad_(False)
    if job.workers.gradient_checkpointing:
        model.enable_input_require_grads()
    return peft.get_peft_model(model, peft_config(job.lora))


def _value(job: LearnersJob, device: Device) -> Trained | None:
    if job.value is None:
        return None
    return trained(score_net(_classifier(job.value)), job, device, job.value_optim)


def trained(net: Any, job: LearnersJob, device: Device, optim: OptimConfig) -> Trained:
    """The module as one that learns; gradient checkpointing as the job says."""
    turn_dropout_off(net)
    if job.workers.gradient_checkpointing:
        net.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Trained(net.train(), optim, job.workers, device, job.total_updates)


def _classifier(model: ModelConfig) -> Any:
    """A classifier with one output; from a language model, one that scores everything 0."""
    tokenizer = read_tokenizer(model)
    config = read_config(model)
    is_classifier = any("Classification" in name for name in config.architectures or ())
    if is_classifier and config.num_labels != 1:
        raise ConfigError(f"the model at {model.path!r} has {config.num_labels} outputs; a score is one")
    loaded = load_trainable(model, tokenizer)
    if not is_classifier:
        zero_head(loaded.score.weight)
    return loaded


def gathered(parameters: list[Any], *, for_change: bool = False) -> Any:
    """A context in which these parameters are whole on every worker; all workers take part under ZeRO-3."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if for_change else None)


def here() -> Any:
    """This worker's device."""
    from ray.train.torch import get_device

    return get_device()


def _frozen(net: Any, job: LearnersJob, device: Device) -> Any:
    """On the device, without gradients; under ZeRO-3 sharded like the models that learn."""
    import torch

    net.requires_grad_(False).eval()
    settings = deepspeed_settings(job.workers, device, job.optim)
    if settings is None or job.workers.zero_stage != 3:
        return net.to(here(), torch.bfloat16 if device.has_bf16 else torch.float32)
    import deepspeed

    zero = {key: value for key, value in settings["zero_optimization"].items() if key != "offload_optimizer"}
    engine, *_ = deepspeed.initialize(model=net, config={**settings, "zero_optimization": zero})
    engine.eval()
    return engine
