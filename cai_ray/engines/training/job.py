"""What a training stage asks for, and what it gets.

Tested in tests/engines/training/test_launcher.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config, ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.training.arguments import TrainerArgs

if TYPE_CHECKING:
    from transformers import Trainer

    from cai_ray.engines.training.proof import Proof

# Runs on every worker: builds the Trainer's arguments FIRST (ZeRO-3 then shards the model while it is loaded), then
# loads model, tokenizer and data itself, and evaluates iff TrainingJob.evaluate. Picklable.
MakeTrainer = Callable[[TrainerArgs], "Trainer"]


# Runs once, in the local folder of the saved model before its files are hashed and committed, and may change them;
# the numbers it returns join TrainedModel.metrics. Picklable; may run again after a crash, on a fresh folder.
Finish = Callable[[Path], dict[str, float]]


class TrainingDiverged(Exception):
    """A loss or gradient norm is no finite number (exit code 1). The message names the step and the last good
    checkpoint. A re-run goes on from there and meets the same numbers, unless the recipe changes."""


class TrainingFailed(Exception):
    """A worker's own code raised; the message is its traceback. Starting it again would raise again."""


@dataclass(frozen=True)
class TrainingJob:
    """What to train. Everything in it is picklable."""

    stage: str
    folder: Storage  # the stage's folder: checkpoints/, model/, metrics.jsonl live here
    fingerprint: str
    seed: int
    num_examples: int  # training rows (or pairs) that the trainer is given, >= 1
    model: ModelConfig  # what learns
    make_trainer: MakeTrainer
    optim: OptimConfig
    workers: WorkersConfig
    keep: Literal["last", "best"] = "last"  # "best": by eval loss, measured at every checkpoint
    evaluate: bool = True  # there are eval rows
    model_card: str = ""  # README.md of the saved model, Markdown with its YAML head
    finish: Finish | None = None
    proof: Proof | None = None  # that the learner computes what samples; None: the recipe turns it off


@dataclass(frozen=True)
class TrainedModel:
    """A saved model: a Hugging Face folder."""

    folder: Storage  # <stage>/model
    files: tuple[FileRecord, ...]  # names relative to the stage's folder ("model/config.json"); num_rows is 0
    num_steps: int  # optimiser steps from the very start
    metrics: dict[str, float]  # of the saved weights: "loss", "eval_loss" and what else was evaluated; Finish's values


MODEL = "model"


TRAINED = "trained.json"


class TrainedRecord(Config):
    """A saved model, written last."""

    fingerprint: str
    num_steps: int
    metrics: dict[str, float]
    files: tuple[FileRecord, ...]  # names relative to the stage's folder
