"""SFT through our launcher against a bare TRL SFTTrainer: tokens per second in steady state, on the same machine.

Real conversations (hh-rlhf's chosen answers), a four-million-parameter Llama, the same batches of 8 at full
precision. Each side runs in a process of its own, in turn, three times; rates are taken between step 10 and the last.

- `bare`: SFTTrainer as a script uses it: one process, every core, prompts and completions, a log line in ten steps.
- `launcher`: the stage's own trainer on one Ray Train worker, with every step logged and a checkpoint on the way. One
  CPU worker needs no DeepSpeed.
- `launcher_zero2`: two Ray Train workers with half of the cores each, under DeepSpeed ZeRO-2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results_file, small_llama
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.cluster import ClusterConfig

SEED = 0
REPEATS = 3
BATCH, STEPS, FIRST = 8, 30, 10  # steps before FIRST are warm-up
STEPS_PER_CHECKPOINT = 20
LEARNING_RATE = 1e-4
MAX_TOKENS = 512


def examples() -> list[list[dict[str, str]]]:
    """Conversations that end in the answer to learn."""
    found = small_llama.pairs(1200)
    whole = [[*map(dict, pair.messages), {"role": "assistant", "content": pair.chosen}] for pair in found]
    return [one for one in whole if sum(len(message["content"]) for message in one) < 3 * MAX_TOKENS][: BATCH * STEPS]


def bare(model: Path, folder: Path) -> float:
    """Tokens/s of TRL alone."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    torch.set_num_threads(os.cpu_count() or 1)
    seen: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "num_tokens" in logs and "train_runtime" not in logs:
                seen.append((time.time(), float(logs["num_tokens"])))

    rows = [{"prompt": one[:-1], "completion": one[-1:]} for one in examples()]
    args = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_length=small_llama.CONTEXT,
        logging_steps=FIRST,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=SEED,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    SFTTrainer(model=str(model), args=args, train_dataset=Dataset.from_list(rows), callbacks=[Clock()]).train()
    return _rate(seen)


def launched(model: Path, folder: Path, workers: WorkersConfig) -> float:
    """Tokens/s of the stage's training job."""
    from cai_ray.artifacts.metrics_file import METRICS
    from cai_ray.engines.models.answer_tokens import AnswerTokens
    from cai_ray.engines.models.reading import load_renderer
    from cai_ray.engines.training.job import TrainingJob
    from cai_ray.engines.training.launcher import train
    from cai_ray.engines.training.token_files import TokenFiles, token_row
    from cai_ray.stages.supervised.train_sft import Config, MakeSftTrainer

    config, storage = ModelConfig(path=str(model)), Storage(str(folder))
    tokenise = AnswerTokens(load_renderer(config))
    with TokenFiles(storage) as files:
        files.write(("train", token_row(str(k), 1.0, tokenise(one))) for k, one in enumerate(examples()))
    optim = OptimConfig(learning_rate=LEARNING_RATE, batch_size=BATCH, epochs=1, max_steps=STEPS)
    make = MakeSftTrainer(storage, config, Config(optim=optim, workers=workers), small_llama.CONTEXT, SEED)
    job = TrainingJob("train_sft", storage, "speed", SEED, BATCH * STEPS, config, make, optim, workers, evaluate=False)
    train(job, ClusterConfig(object_store_gib=0.5))
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return _rate([(line["elapsed_s"], line["num_tokens"]) for line in lines if line.get("step", 0) >= FIRST])


def _rate(seen: list[tuple[float, float]]) -> float:
    """Tokens/s between the first and the last of (seconds, tokens so far)."""
    (start, before), (end, after) = seen[0], seen[-1]
    return (after - before) / (end - start)


def _workers(num: int) -> WorkersConfig:
    return WorkersConfig(num_workers=num, zero_stage=2, steps_per_checkpoint=STEPS_PER_CHECKPOINT)


SIDES: dict[str, Callable[[Path, Path], float]] = {
    "bare": bare,
    "launcher": lambda model, folder: launched(model, folder, _workers(1)),
    "launcher_zero2": lambda model, folder: launched(model, folder, _workers(2)),
}


def _in_own_process(side: str, model: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.sft_speed", side, str(model)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["tokens_per_s"])


def main() -> None:
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        model = small_llama.save(Path(scratch) / "model")
        for repeat in range(REPEATS):
            for side in SIDES:
                rates[side].append(_in_own_process(side, model))
                print(f"round {repeat + 1}: {side} {rates[side][-1]:.0f} tokens/s", flush=True)
    ratios = {
        f"{side}_to_bare": results_file.spread([a / b for a, b in zip(rates[side], rates["bare"], strict=True)])
        | {"target": ">= 0.9"}
        for side in SIDES
        if side != "bare"
    }
    shape = {"batch_size": BATCH, "steps": STEPS, "steps_per_checkpoint": STEPS_PER_CHECKPOINT}
    figures = {"tokens_per_s": {side: results_file.spread(own) for side, own in rates.items()}, **ratios, **shape}
    claim = "SFT through the launcher keeps >= 0.9x of a bare TRL trainer's tokens/s"
    results_file.write("sft_speed", claim, figures, [SEED])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({"tokens_per_s": SIDES[sys.argv[1]](Path(sys.argv[2]), Path(scratch))}))
    else:
        main()
