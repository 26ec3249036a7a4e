"""A tiny training whose faults can be told: imported by name in Ray's training workers.

A random Llama of about 10,000 parameters learns 64 fixed rows, in a second or two once its workers are up.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.training.job import TrainingJob
from cai_ray.errors import ConfigError

NUM_ROWS, ROW_TOKENS, VOCABULARY = 64, 12, 48
BATCH = 8


class Bucket(Storage):
    """A local folder that is treated as an object store."""

    @property
    def is_local(self) -> bool:
        return False


@dataclass(frozen=True)
class TinyTraining:
    """A MakeTrainer. `die_at`: the last worker kills itself at that step, once: then there is the file `once`."""

    model: str
    die_at: int | None = None
    once: str = ""
    nan_at: int | None = None
    step_s: float = 0.0  # how much longer a step takes
    refuses: bool = False

    def __call__(self, arguments: dict[str, Any]) -> Any:
        if self.refuses:
            raise ConfigError("this data is not for training")
        import torch
        from datasets import Dataset
        from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

        training = self

        class Fault(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                step = state.global_step + 1
                time.sleep(training.step_s)
                is_last = args.process_index == args.world_size - 1
                if step == training.die_at and is_last and not os.path.exists(training.once):
                    Path(training.once).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if step == training.nan_at:
                    with torch.no_grad():
                        kwargs["model"].get_input_embeddings().weight.fill_(float("nan"))

        args = TrainingArguments(**arguments)
        rng = random.Random(0)
        rows = [[rng.randrange(3, VOCABULARY) for _ in range(ROW_TOKENS)] for _ in range(NUM_ROWS + BATCH)]
        data = Dataset.from_dict({"input_ids": rows, "labels": rows})
        trainer = Trainer(
            model=LlamaForCausalLM.from_pretrained(self.model, dtype=torch.float32),
            args=args,
            train_dataset=data.select(range(NUM_ROWS)),
            eval_dataset=data.select(range(NUM_ROWS, NUM_ROWS + BATCH)),
        )
        trainer.add_callback(Fault())
        return trainer


def save_tiny_model(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    """Random weights; the same ones every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    return folder


def tiny_job(folder: Path | Storage, trainer: TinyTraining, **workers: Any) -> TrainingJob:
    """8 steps, a checkpoint every 2."""
    return TrainingJob(
        stage="tiny",
        folder=folder if isinstance(folder, Storage) else Storage(str(folder)),
        fingerprint="f" * 32,
        seed=3,
        num_examples=NUM_ROWS,
        model=ModelConfig(path=trainer.model),
        make_trainer=trainer,
        optim=OptimConfig(learning_rate=1e-2, batch_size=BATCH, warmup_steps=2, schedule="cosine"),
        workers=WorkersConfig(**{"steps_per_checkpoint": 2, "threads": 1, **workers}),
        model_card="# tiny\n",
    )
