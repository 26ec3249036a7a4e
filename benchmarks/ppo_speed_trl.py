"""TRL 1.12's experimental PPOTrainer on the work of `ppo_speed`; runs in TRL's own environment, so it imports nothing
of this repository. `python ppo_speed_trl.py WORK.json` prints when each step ended and how long its answers were.

Settings are TRL's best on a CPU: every core, answers of a step sampled in one batch, no gradient checkpointing, no
bfloat16, nothing saved. Two things are made equal. Its accelerator would make one update per epoch, whatever
`num_mini_batches` says; here every minibatch is an update, as with us. And answers are counted as they are sampled.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Clock(TrainerCallback):
    """When each step ended, in seconds."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends_s.append(time.perf_counter())


def counting(generate: Callable[..., Any], end_id: int, lengths: list[list[int]]) -> Callable[..., Any]:
    """`batch_generation` that notes how many tokens each answer has, its end token included."""

    def counted(model: Any, queries: Any, *arguments: Any) -> Any:
        found = generate(model, queries, *arguments)
        is_end = found[0][:, queries.shape[1] :] == end_id
        lengths.append((is_end.cumsum(1) - is_end.long() == 0).sum(1).tolist())
        return found

    return counted


def train(work: dict[str, Any], folder: str) -> dict[str, Any]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(work["policy"], padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(work["policy"], dtype=torch.float32) for _ in ("policy", "reference")
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(work["scores"], dtype=torch.float32, num_labels=1)
        for _ in ("reward", "value")
    )
    num_minibatches = work["episodes"] // work["minibatch"]
    args = PPOConfig(
        output_dir=folder,
        seed=work["seed"],
        total_episodes=work["episodes"] * work["steps"],
        per_device_train_batch_size=work["minibatch"],
        gradient_accumulation_steps=num_minibatches,
        num_mini_batches=num_minibatches,
        num_ppo_epochs=work["epochs"],
        local_rollout_forward_batch_size=work["episodes"],
        response_length=work["max_tokens"],
        stop_token="eos",
        temperature=1.0,
        kl_coef=work["kl_coefficient"],
        learning_rate=work["learning_rate"],
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    clock, lengths = Clock(), []
    ppo_trainer.batch_generation = counting(ppo_trainer.batch_generation, tokenizer.eos_token_id, lengths)
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": prompt["token_ids"]} for prompt in work["prompts"]]),
        callbacks=[clock],
    )
    trainer.accelerator.gradient_accumulation_steps = 1
    trainer.train()
    return {"ends_s": clock.ends_s, "lengths": [sum(step) / len(step) for step in lengths]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text()), scratch)))
