"""Train the policy on the labels directly, without a preference model or rollouts.  Preference -> a policy.

Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): the alternative to the paper's RL phase, on
the same rows. The reference is the model it starts from, frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import name_of
from cai_ray.chat import Message
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.engines.training.arguments import TrainerArgs
from cai_ray.engines.training.job import TrainingJob
from cai_ray.stages.context import Context
from cai_ray.stages.pair_files import PairFiles
from cai_ray.stages.preferences.comparisons import Encode, input_files, input_identity
from cai_ray.stages.preferences.train_on_pairs import PairTraining, train_on_pairs
from cai_ray.stages.preferences.training_pairs import WrittenPairs
from cai_ray.stages.proof import proof_of
from cai_ray.stages.step import Step

if TYPE_CHECKING:
    from transformers import Trainer

STAGE = "train_dpo"
LossType = Literal[
    "sigmoid",
    "ipo",
    "hinge",
    "bco_pair",
    "nca_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
SOFT_LOSSES = ("sigmoid", "ipo")


class Config(PairTraining):
    """The recipe's section `dpo`."""

    model: str = Field("sl_cai", description="Which model to start from; a frozen copy of it is the reference.")
    beta: float = Field(0.1, gt=0, description="Pull towards the reference; for ipo its regularisation, per token.")
    loss_type: LossType = Field("sigmoid", description="TRL's name of the loss; soft targets need sigmoid or ipo.")
    optim: OptimConfig = OptimConfig(learning_rate=1e-6)
    lora: LoraConfig | None = Field(None, description="Train adapters only; null: all weights.")
    workers: WorkersConfig = WorkersConfig()
    keep: Literal["last", "best"] = Field("last", description='"best": the checkpoint of least evaluation loss.')

    @model_validator(mode="after")
    def _soft_loss(self) -> Config:
        if self.targets == "soft" and self.loss_type not in SOFT_LOSSES:
            raise ValueError(
                f'loss_type="{self.loss_type}" has no form for soft targets; set targets to "hard", '
                f"or loss_type to {' or '.join(SOFT_LOSSES)}"
            )
        return self


def make_trainer(arguments: TrainerArgs, *, model: ModelConfig, files: PairFiles, config: Config) -> Trainer:
    """The Trainer of one worker."""
    from cai_ray.engines.training.pairwise import dpo_trainer

    train_set = files.completions("train")
    assert train_set is not None, "write_pairs refuses an empty training set"
    return dpo_trainer(
        arguments,
        model,
        train_set,
        files.completions("eval"),
        config.lora,
        config.beta,
        config.loss_type,
        is_soft=config.targets == "soft",
    )


def answer_tokens(tokens: AnswerTokens, messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """The prompt as the policy is asked it, and the answer that it learns to say."""
    found = tokens([*messages, {"role": "assistant", "content": answer}])
    return found.prompt_ids, found.answer_ids


def model_card(config: Config, model: ModelConfig, pairs: WrittenPairs) -> str:
    """README.md of the saved model."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [dpo, constitutional-ai]
---
# Policy trained by direct preference optimisation

Made by cai_ray from `{name_of(model.path)}`, its own reference, on {pairs.num_train} training pairs: loss
{config.loss_type}, beta {config.beta:g}, {config.targets} targets.
"""


def job_of(config: Config, context: Context, model: ModelConfig, pairs: WrittenPairs) -> TrainingJob:
    """What the training engine is asked to do."""
    return TrainingJob(
        stage=STAGE,
        folder=context.folder(STAGE),
        fingerprint=context.fingerprints[STAGE],
        seed=context.seed,
        num_examples=pairs.num_train,
        model=model,
        make_trainer=partial(make_trainer, model=model, files=pairs.files, config=config),
        optim=config.optim,
        workers=config.workers,
        proof=proof_of("dpo", config.proof, context, config.model, model, pairs.files.answers()),
        keep=config.keep,
        evaluate=pairs.num_eval > 0,
        model_card=model_card(config, model, pairs),
    )


def run(config: Config, context: Context, source_stage: str | None) -> Artifact:
    """Train on the labels of `source_stage`, where the run makes some, and the pairs that the config brings."""

    def prepare(model: ModelConfig) -> tuple[Encode, Callable[[WrittenPairs], TrainingJob]]:
        tokens = AnswerTokens(load_renderer(model), model.thinking)
        return partial(answer_tokens, tokens), partial(job_of, config, context, model)

    return train_on_pairs(STAGE, config, context, source_stage, prepare)


def step(config: Config, source_stage: str | None) -> Step:
    """Of a run; makes the model `dpo`."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        trains=config.model,
        makes="dpo",
        reads=(source_stage,) if source_stage is not None else (),
        identity=lambda: input_identity(config),
        files=lambda: input_files(config),
    )
