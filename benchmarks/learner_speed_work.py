"""What `learner_speed` measures: models of random weights, batches of random tokens, and one update step of each kind.

The steps are those of the product: `Trained`, `Passes` and `Learning` of cai_ray/engines/learners.
"""

from __future__ import annotations

import gc
import math
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cai_ray.algorithms.guards import GuardConfig, GuardState
from cai_ray.algorithms.minibatches import Indices
from cai_ray.algorithms.policy_losses import PolicyLossConfig, ValueLossConfig, pretraining_loss
from cai_ray.artifacts.storage import Storage
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig
from cai_ray.engines.learners.job import LearnersConfig, LearnersJob
from cai_ray.engines.learners.learning import Guards, Learning
from cai_ray.engines.learners.models import Models, trained, with_adapters
from cai_ray.engines.learners.nets import score_net, token_net
from cai_ray.engines.learners.optim import Trained
from cai_ray.engines.learners.packing import Packed, pack
from cai_ray.engines.learners.passes import Passes, token_logprobs
from cai_ray.engines.training.arguments import Device
from cai_ray.engines.training.worker_group import Place
from cai_ray.stages.ppo.refresh.relearning import slopes_of

ALONE = Place(rank=0, num_workers=1, local_rank=0, num_local=1)
LEARNING_RATE = 1e-5
PATTERN = 7  # the loss curves' text: every token follows from the one before


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int

    @property
    def trunk(self) -> int:
        """Weights that every token passes: all but the embeddings, the output layer included."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * head
        return self.layers * (attention + 3 * self.hidden * self.mlp)


@dataclass(frozen=True)
class Setting:
    """The device and the size of the work."""

    device: torch.device
    has_deepspeed: bool
    num_sequences: int
    most_tokens: int  # of a sequence
    tokens_per_pass: int
    seed: int

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def kind(self) -> Device:
        """As the learners are told: without DeepSpeed they learn in the precision of the weights."""
        return Device(is_gpu=self.has_deepspeed, has_bf16=self.has_deepspeed)

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, answer) tokens of each sequence: log-normal, as conversations are."""
        rng = random.Random(self.seed)

        def drawn(median: float) -> int:
            return max(2, min(self.most_tokens // 2, round(median * math.exp(rng.gauss(0, 0.7)))))

        middle = self.most_tokens / 6
        return [(drawn(middle), drawn(middle)) for _ in range(self.num_sequences)]


def setting(is_smoke: bool, seed: int) -> Setting:
    """The GPU where there is one. Also starts DeepSpeed there, in a process group of its own."""
    if is_smoke or not torch.cuda.is_available():
        torch.set_num_threads(1 if is_smoke else torch.get_num_threads())  # work this small is faster on one
        return Setting(torch.device("cpu"), False, 8, 48, 128, seed)
    try:
        import deepspeed  # type: ignore[import-untyped]
    except ImportError:
        deepspeed = None
    if deepspeed is not None:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        os.environ.update(alone)
        deepspeed.init_distributed()
    return Setting(torch.device("cuda", 0), deepspeed is not None, 32, 1024, 8192, seed)


def release(setting: Setting) -> None:
    gc.collect()
    if setting.is_gpu:
        torch.cuda.empty_cache()


def flops(shape: Shape, kind: str, variant: str, num_tokens: int) -> float:
    """Arithmetic of a step over so many tokens: 2 per weight and token forward, 4 back (2 where weights are frozen)."""
    update = 2 + (2 if variant == "lora" and kind != "preference" else 4)
    passes = {"sft": update, "preference": 2 + 6, "ppo": update + 6 + 2 * 4}[
        kind
    ]  # scores: policy, reference, value, reward
    return float(passes) * shape.trunk * num_tokens


class InOrder(Passes):
    """As many sequences to a pass as fit, in the order they come: what a data loader does."""

    def shares(self, chosen: Indices, lengths: Sequence[int]) -> Sequence[Indices]:
        found: list[list[int]] = [[]]
        for index in chosen:
            longest = max(lengths[i] for i in (*found[-1], index))
            if found[-1] and longest * (len(found[-1]) + 1) > self._most_tokens:
                found.append([])
            found[-1].append(index)
        return [tuple(one) for one in found]


def language_model(shape: Shape, setting: Setting, dtype: torch.dtype, classifier: bool = False) -> Any:
    """Random weights by the setting's seed."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=setting.most_tokens,
        pad_token_id=0,
        num_labels=1,
        use_cache=False,
        tie_word_embeddings=False,
    )
    torch.manual_seed(setting.seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with setting.device:
            return (LlamaForSequenceClassification if classifier else LlamaForCausalLM)(config)
    finally:
        torch.set_default_dtype(before)


def sequences(shape: Shape, setting: Setting, patterned: bool = False) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and answers."""
    rng = random.Random(setting.seed)
    prompts, answers = [], []
    for prompt, answer in setting.lengths():
        start = rng.randrange(1, shape.vocab)
        ids = [(start + PATTERN * k) % min(shape.vocab - 1, 97) + 1 for k in range(prompt + answer)]
        if not patterned:
            ids = [rng.randrange(1, shape.vocab) for _ in ids]
        prompts.append(ids[:prompt])
        answers.append(ids[prompt:])
    return prompts, answers


def job_of(setting: Setting, variant: str, learning_rate: float = LEARNING_RATE) -> LearnersJob:
    model, optim = ModelConfig(path="random"), OptimConfig(learning_rate=learning_rate, batch_size=1)
    workers = LearnersConfig(
        tokens_per_pass=setting.tokens_per_pass, gradient_checkpointing=variant == "checkpointing", zero_stage=1
    )
    return LearnersJob(
        stage="speed",
        folder=Storage(tempfile.gettempdir()),
        seed=setting.seed,
        policy=model,
        reward=model,
        value=model,
        optim=optim,
        value_optim=optim,
        total_updates=1_000,
        workers=workers,
        loss=PolicyLossConfig(),
        value_loss=ValueLossConfig(),
        guards=GuardConfig(max_ratio=None, max_update_kl=None),
        lora=LoraConfig() if variant == "lora" else None,
        reward_optim=optim,
    )


def passes_of(job: LearnersJob, variant: str, setting: Setting) -> Passes:
    return (InOrder if variant == "in_order" else Passes)(job.workers, ALONE, setting.device)


def our_step(shape: Shape, kind: str, variant: str, setting: Setting) -> tuple[Callable[[], object], int]:
    """One update as the product makes it, and the tokens that it learns from."""
    job = job_of(setting, variant)
    prompts, answers = sequences(shape, setting)
    num_tokens = sum(map(len, prompts + answers))
    passes = passes_of(job, variant, setting)
    if kind == "sft":
        packed = pack(prompts, answers, {})
        learner = policy(shape, job, setting)
        return (lambda: sft_update(learner, passes, packed)), num_tokens
    reward = trained(score_net(language_model(shape, setting, _dtype(setting), True)), job, setting.kind, job.optim)
    conversations = pack([a + b for a, b in zip(prompts, answers, strict=True)], [[1]] * len(prompts), {})
    if kind == "preference":
        nothing: Any = None
        models = Models(None, None, nothing, None, None, reward=reward.net, reward_trained=reward)
        learning = Learning(job, ALONE, passes, models, Guards(GuardState(), GuardState()))
        return (lambda: preference_update(learning, conversations)), num_tokens
    return ppo_step(shape, job, setting, passes, reward, pack(prompts, answers, {}), conversations), num_tokens


def _dtype(setting: Setting) -> torch.dtype:
    """DeepSpeed makes bfloat16 of float32 itself and keeps the masters."""
    return torch.float32 if setting.has_deepspeed else torch.bfloat16


def policy(shape: Shape, job: LearnersJob, setting: Setting, dtype: torch.dtype | None = None) -> Trained:
    model = language_model(shape, setting, dtype or _dtype(setting))
    return trained(token_net(with_adapters(model, job) if job.lora else model), job, setting.kind, job.optim)


def sft_update(learner: Trained, passes: Passes, packed: Packed) -> float:
    """Next-token loss of the answers, nats per token, and an update."""
    total, losses = float(packed.answer_lengths.sum()), []
    for batch in passes.of(packed):
        loss = pretraining_loss(token_logprobs(learner.net, batch, 1.0), batch.weights("token", total))
        learner.backward(loss)
        losses.append(loss.detach())
    learner.step(math.isfinite)
    return float(sum(losses))


def preference_update(learning: Learning, conversations: Packed) -> None:
    """The first half of the conversations are preferred to the second."""
    scored = learning.rewards(conversations)
    scores = np.zeros(len(conversations.prompt_lengths))
    scores[scored["which"]] = scored["score"]
    _, slopes = slopes_of(scores.tolist(), [1.0] * (len(scores) // 2), None)
    learning.reward_step(replace(conversations, columns={"slopes": np.array(slopes, np.float32)}))


def ppo_step(
    shape: Shape,
    job: LearnersJob,
    setting: Setting,
    passes: Passes,
    reward: Trained,
    packed: Packed,
    conversations: Packed,
) -> Callable[[], None]:
    """Scores by policy, reference, value and reward model, then one update of policy and value model."""
    dtype = _dtype(setting)
    reference = None
    if job.lora is None:
        reference = token_net(language_model(shape, setting, torch.bfloat16)).requires_grad_(False).eval()
    value = trained(score_net(language_model(shape, setting, dtype, True)), job, setting.kind, job.value_optim)
    models = Models(None, dtype, policy(shape, job, setting), value, reference, reward.net, reward)
    learning = Learning(job, ALONE, passes, models, Guards(GuardState(), GuardState()))
    rng = np.random.default_rng(setting.seed)

    def step() -> None:
        scored = learning.score(packed, conversations)
        columns = {name: np.zeros(len(scored["places"]), np.float32) for name in ("logprobs", "ref_logprobs", "values")}
        for name, column in columns.items():
            column[scored["places"]] = scored[name]
        advantages = rng.normal(size=len(scored["places"])).astype(np.float32)
        columns |= {"sampler_logprobs": columns["logprobs"], "advantages": advantages, "returns": advantages}
        learning.update(replace(packed, columns=columns), 1, 0, setting.seed, None)

    return step


def stock_step(shape: Shape, setting: Setting, num_steps: int) -> tuple[Callable[[], object], int]:
    """transformers' Trainer over the same sequences, one update per call: micro-batches of as many as fit, padded."""
    from transformers import Trainer, TrainingArguments

    prompts, answers = sequences(shape, setting)
    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    micro = max(1, min(len(rows), setting.tokens_per_pass // max(len(row["input_ids"]) for row in rows)))
    micro = max(size for size in range(1, micro + 1) if len(rows) % size == 0)

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)

        def padded(name: str, pad: int) -> torch.Tensor:
            return torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in batch])

        lengths = torch.tensor([[len(row["input_ids"])] for row in batch])
        return {
            "input_ids": padded("input_ids", 0),
            "labels": padded("labels", -100),
            "attention_mask": (torch.arange(longest)[None] < lengths).long(),
        }

    arguments = TrainingArguments(
        output_dir=str(Path(tempfile.gettempdir()) / "learner_speed"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(rows) // micro,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_steps=1,
        use_cpu=not setting.is_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    model = language_model(shape, setting, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer: Any = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # a list is a dataset to torch
        data_collator=collate,
        optimizers=(optimizer, constant),
    )
    return trainer.train, sum(len(row["input_ids"]) for row in rows)


def loss_curve(shape: Shape, setting: Setting, dtype: torch.dtype, num_steps: int) -> list[float]:
    """Fine-tuning by our step on text with a pattern; nats per token before each update."""
    plain = replace(setting, has_deepspeed=False)  # the precision of the weights is what is compared
    job = job_of(plain, "bucketed", learning_rate=1e-4)
    packed = pack(*sequences(shape, plain, patterned=True), {})
    learner, passes = policy(shape, job, plain, dtype), passes_of(job, "bucketed", plain)
    return [round(sft_update(learner, passes, packed), 4) for _ in range(num_steps)]
