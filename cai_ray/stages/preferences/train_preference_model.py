"""Train the preference model.  Preference (and human pairs) -> a sequence classifier with one score.

Bai et al. 2022, section 4.1: AI labels of harmlessness, as soft targets, mixed with human choices of helpfulness.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cai_ray.algorithms.centring import Centred, centred_head
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import name_of
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary
from cai_ray.chat import Message
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig, WorkersConfig
from cai_ray.engines.models.reading import CONFIG_KEY
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.scoring import Scorer, replace_tensor
from cai_ray.engines.models.trainable import load_tokenizer
from cai_ray.engines.training.arguments import TrainerArgs
from cai_ray.engines.training.job import TrainingJob
from cai_ray.rows import EVAL_SCORE, EVAL_SCORES
from cai_ray.seeding import rng_for
from cai_ray.stages.context import Context
from cai_ray.stages.pair_files import PairFiles
from cai_ray.stages.preferences import preference_model_summary
from cai_ray.stages.preferences.comparisons import Encode, input_files, input_identity
from cai_ray.stages.preferences.train_on_pairs import PairTraining, train_on_pairs
from cai_ray.stages.preferences.training_pairs import WrittenPairs
from cai_ray.stages.proof import proof_of
from cai_ray.stages.step import Step, shown

if TYPE_CHECKING:
    from transformers import Trainer

STAGE = "train_preference_model"
MADE = "preference_model"  # what the run calls the model
HEAD = "score.weight"
SIDES = ("chosen", "rejected")


class Config(PairTraining):
    """The recipe's section `preference_model`."""

    model: str = Field("sl_cai", description="Which model to start from; its output layer is replaced by a score.")
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig | None = Field(None, description="Train adapters and the head only; null: all weights.")
    workers: WorkersConfig = WorkersConfig()
    keep: Literal["last", "best"] = Field("last", description='"best": the checkpoint of least evaluation loss.')
    center_rewards_coefficient: float | None = Field(
        0.01, gt=0, description="Penalty on (score chosen + score rejected)^2, TRL's option; null: none."
    )
    centring_answers: int = Field(
        4096, ge=1, description="Training answers whose mean score is brought to zero after training, drawn by seed."
    )


@dataclass(frozen=True)
class CentreAndScore:
    """What is done to the trained model before it is committed; runs on one worker.

    The tokenizer gets a chat template that ends where conversations are scored. The head is moved so that training
    answers score zero on average. The evaluation pairs are scored, into EVAL_SCORES beside the model's folder.
    """

    start: ModelConfig
    files: PairFiles
    num_answers: int

    def __call__(self, folder: Path) -> dict[str, float]:
        tokens = ScoredTokens(self.start, load_tokenizer(self.start))
        tokens.tokenizer.chat_template = tokens.scoring_template()
        tokens.tokenizer.save_pretrained(folder)
        described: dict[str, Any] = {"scored_token": tokens.end_token, "system_role": tokens.system_role}
        _add_to_config(
            folder / "config.json",
            id2label={"0": "score"},
            label2id={"score": 0},
            pad_token_id=tokens.tokenizer.pad_token_id,
            **{CONFIG_KEY: described},
        )
        answers = self._training_answers()
        centred = _centre(folder, answers)
        scorer = Scorer(folder, STAGE)
        scores = scorer.scores(answers)
        found = {
            "score_mean": float(scores.mean()),
            "score_std": float(scores.std()),
            "score_offset": centred.offset,
            "score_noise": centred.noise_std,
        }
        _add_to_config(folder / "config.json", **{CONFIG_KEY: {**described, **found, "num_answers": len(answers)}})
        self._score_evaluation(scorer)
        return found

    def _training_answers(self) -> list[list[int]]:
        """At most `num_answers` conversations of the training set, as often as they are in it, in random order."""
        pairs = self.files.pairs("train")
        answers = [(side, position) for position in self.files.order(pairs) for side in SIDES]
        rng = rng_for(self.files.seed, STAGE, "centring answers")
        answers = rng.sample(answers, min(len(answers), self.num_answers))
        return [pairs[f"{side}_tokens"][position].as_py() for side, position in answers]

    def _score_evaluation(self, scorer: Scorer) -> None:
        pairs = self.files.pairs("eval")
        scores = {side: scorer.scores(pairs[f"{side}_tokens"].to_pylist()) for side in SIDES}
        columns = {name: pairs[name] for name in ("pair_id", "prompt_id", "label_source", "prob_chosen")}
        table = pa.table(
            {**columns, "score_chosen": scores["chosen"], "score_rejected": scores["rejected"]}, EVAL_SCORE
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.files.folder.write(EVAL_SCORES, sink.getvalue())


def _centre(folder: Path, answers: list[list[int]]) -> Centred:
    """Change the saved head."""
    scorer = Scorer(folder, STAGE)
    weight = scorer.model.score.weight.detach().float().cpu().numpy()[0]
    centred = centred_head(weight, scorer.states(answers))
    replace_tensor(folder, HEAD, centred.weight)
    return centred


def _add_to_config(path: Path, **added: Any) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**saved, **added}, indent=2) + "\n", encoding="utf-8")


def make_trainer(arguments: TrainerArgs, *, model: ModelConfig, files: PairFiles, config: Config) -> Trainer:
    """The Trainer of one worker."""
    from cai_ray.engines.training.pairwise import score_trainer

    train_set = files.whole("train")
    assert train_set is not None, "write_pairs refuses an empty training set"
    return score_trainer(
        arguments, model, train_set, files.whole("eval"), config.lora, config.center_rewards_coefficient
    )


def whole_tokens(tokens: ScoredTokens, messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """Nothing beside the conversation: all of it is scored."""
    return [], tokens.encode(messages, answer)


def model_card(config: Config, model: ModelConfig, pairs: WrittenPairs, end_token: str) -> str:
    """README.md of the saved model."""
    name = name_of(model.path)
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [preference-model, constitutional-ai]
---
# Preference model

Scores a conversation that ends in an answer; higher is better. For two answers to one conversation,
sigmoid(score A - score B) is the probability that A is the better one. Made by cai_ray from `{name}` on
{pairs.num_train} training pairs with {config.targets} targets.

The score is read at the last token, `{end_token}`, which closes the answer. The chat template that comes along ends
there, so that messages rendered by it are scored at the right place. Pad on the right. Leave reasoning out.
Scores of training answers are centred on zero; `config.json` has their mean and spread under `{CONFIG_KEY}`.

transformers: `AutoModelForSequenceClassification.from_pretrained(folder)`, the one logit is the score.
vLLM: `LLM(folder, runner="pooling", convert="classify")` with `PoolingParams(task="classify", use_activation=False)`.
"""


def job_of(config: Config, context: Context, model: ModelConfig, end_token: str, pairs: WrittenPairs) -> TrainingJob:
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
        proof=proof_of("preference_model", config.proof, context, config.model, model, pairs.files.answers()),
        keep=config.keep,
        evaluate=pairs.num_eval > 0,
        model_card=model_card(config, model, pairs, end_token),
        finish=CentreAndScore(model, pairs.files, config.centring_answers),
    )


def run(config: Config, context: Context, source_stage: str | None) -> Artifact:
    """Train on the labels of `source_stage`, where the run makes some, and the pairs that the config brings."""

    def prepare(model: ModelConfig) -> tuple[Encode, Callable[[WrittenPairs], TrainingJob]]:
        tokens = ScoredTokens(model, load_tokenizer(model))
        return partial(whole_tokens, tokens), partial(job_of, config, context, model, tokens.end_token)

    return train_on_pairs(STAGE, config, context, source_stage, prepare)


def step(config: Config, source_stage: str | None) -> Step:
    """Of a run; makes the model `preference_model`."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        trains=config.model,
        makes=MADE,
        reads=(source_stage,) if source_stage is not None else (),
        identity=lambda: input_identity(config),
        files=lambda: input_files(config),
        summary=shown(PreferenceModelSummary, preference_model_summary.summarise, preference_model_summary.table),
    )
