"""Stock TRL on the files of `training`: what a script of TRL's own trainers gives, with the same settings.

`python -m benchmarks.real_model.peers KIND SEED FOLDER OUT PER_PASS` trains on FOLDER/train.jsonl, with PER_PASS
examples per forward pass, and writes the model to OUT.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.real_model.weights import model_folder

BATCH, MAX_LENGTH = 8, 512
LEARNING_RATES = {"sft": 2e-5, "preference_model": 2e-5, "dpo": 1e-6}
BETA = 0.1
CENTRING = 0.01


def rows_of(file: Path, kind: str) -> list[dict[str, Any]]:
    """As TRL wants them: conversations."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if kind == "sft":
        return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    return rows


def trainer_of(kind: str, arguments: dict[str, Any], **given: Any) -> Any:
    if kind == "sft":
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        return SFTTrainer(model_folder(), args=SFTConfig(**arguments), **given)
    if kind == "dpo":
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        return DPOTrainer(model_folder(), args=DPOConfig(**arguments, beta=BETA), **given)
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    scores = RewardConfig(**arguments, center_rewards_coefficient=CENTRING)
    return RewardTrainer(model_folder(), args=scores, **given)


def train(kind: str, seed: int, folder: Path, out: Path, per_pass: int) -> dict[str, Any]:
    """(seconds, tokens so far) at every step; of a preference model the margins of the held-out pairs, too."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    seen: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "num_tokens" in logs and "train_runtime" not in logs:
                seen.append((time.time(), float(logs["num_tokens"])))

    arguments = {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": per_pass,
        "gradient_accumulation_steps": BATCH // per_pass,
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATES[kind],
        "lr_scheduler_type": "constant",
        "max_length": MAX_LENGTH,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    learned, held_out = (Dataset.from_list(rows_of(folder / f"{split}.jsonl", kind)) for split in ("train", "test"))
    trainer = trainer_of(kind, arguments, train_dataset=learned, eval_dataset=held_out, callbacks=[Clock()])
    trainer.train()
    found: dict[str, Any] = {"seen": seen}
    if kind == "preference_model":
        found["margins"] = margins(trainer)
    else:
        trainer.save_model(str(out))
    return found


def margins(trainer: Any) -> list[float]:
    """[num_pairs]: score of the chosen answer less that of the other, as the trainer itself reads a pair."""
    import torch

    found: list[float] = []
    trainer.model.eval()
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            chosen, rejected = trainer.model(**batch).logits.squeeze(-1).float().chunk(2)
        found += (chosen - rejected).tolist()
    return found


if __name__ == "__main__":
    kind, seed, folder, out, per_pass = sys.argv[1:]
    print(json.dumps(train(kind, int(seed), Path(folder), Path(out), int(per_pass))))
