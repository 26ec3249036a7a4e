"""Train the SL-CAI policy on its own revisions.  Revision -> SFT example, model.

The second half of the paper's supervised phase (section 3.2): revisions of all rounds, mixed with answers to helpful
prompts, by supervised fine-tuning with the loss on the answers only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.counters import TRAINED_TOKENS
from cai_ray.artifacts.derived import Outcome, batched, write_outcomes
from cai_ray.artifacts.storage import Storage, name_of
from cai_ray.config import LoraConfig, ModelConfig, OptimConfig, ProofConfig, WorkersConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.engines.models.answer_tokens import IGNORED, AnswerTokens
from cai_ray.engines.models.reading import context_length, load_renderer
from cai_ray.engines.models.trainable import (
    load_causal_lm,
    load_tokenizer,
    local_path,
    peft_config,
)
from cai_ray.engines.training.arguments import TrainerArgs
from cai_ray.engines.training.job import TrainingJob
from cai_ray.engines.training.launcher import train
from cai_ray.engines.training.token_files import TokenFiles, delete_tokens, read_tokens, token_row
from cai_ray.errors import ConfigError
from cai_ray.row_ids import EXAMPLE_IDS
from cai_ray.rows import SFT_EXAMPLE
from cai_ray.stages.context import Context
from cai_ray.stages.exports import export_sft
from cai_ray.stages.held_out import held_out_texts
from cai_ray.stages.proof import proof_of
from cai_ray.stages.step import Step
from cai_ray.stages.supervised.examples import STAGE as STAGE
from cai_ray.stages.supervised.examples import (
    ExampleOptions,
    draw_eval,
    examples,
    schedule,
    unit_ids,
)
from cai_ray.stages.supervised.own_examples import ExampleSetConfig, input_files, input_identity, own_examples


class Config(ExampleOptions):
    """The recipe's section `sft`."""

    model: str = Field("policy", description="Which of the recipe's models the training starts from.")
    examples: tuple[ExampleSetConfig, ...] = Field(
        (),
        exclude_if=lambda sets: not sets,  # a run without them is the run that it was before there were any
        description="Examples of your own: in place of the section revise, or beside it where the recipe has one.",
    )
    max_length: int | None = Field(
        None, ge=8, description="Tokens of prompt and answer; longer examples are dropped. Null: the model's context."
    )
    packing: bool = Field(
        False, description="Join short examples into rows of max_length; batch_size then counts such rows."
    )
    eval_examples: int = Field(1000, ge=1, description="Most held-out examples that each evaluation reads.")
    keep: Literal["last", "best"] = Field("last", description='The model to save; "best": by eval loss.')
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig | None = Field(None, description="Train low-rank adapters; null: every weight.")
    workers: WorkersConfig = WorkersConfig()
    proof: ProofConfig = Field(
        ProofConfig(), description="That the learner computes what samples, on a few answers before the first step."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        names = [source.source for source in self.examples]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two of examples are called {twice[0]!r}, and their ids need different ones; set `name`")
        return self


@dataclass(frozen=True)
class MakeSftTrainer:
    """Builds TRL's SFTTrainer on a worker, from the token files."""

    folder: Storage
    model: ModelConfig
    config: Config
    max_length: int
    seed: int

    def __call__(self, arguments: TrainerArgs) -> Any:
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        args = SFTConfig(
            **arguments,
            max_length=self.max_length,
            packing=self.config.packing,
            dataset_kwargs={"skip_prepare_dataset": True},  # it comes as token ids and labels
            train_sampling_strategy="sequential",  # it comes in order, see `schedule`
        )
        tokenizer = load_tokenizer(self.model)
        evaluated = self._eval_data()
        return SFTTrainer(
            model=_stopping(load_causal_lm(self.model, tokenizer), self.model),
            args=args,
            train_dataset=self._train_data(),
            eval_dataset=evaluated if len(evaluated) else None,
            processing_class=tokenizer,
            peft_config=peft_config(self.config.lora),
        )

    def _train_data(self) -> Any:
        from datasets import Dataset, concatenate_datasets
        from trl.data_utils import pack_dataset

        table = read_tokens(self.folder, "train")
        epochs = schedule(*_ids_and_weights(table), self.config.optim.epochs, self.seed)
        rows = Dataset(table.select(["input_ids", "labels"]))
        if not self.config.packing:
            return rows.select([position for epoch in epochs for position in epoch])
        # Each epoch by itself, and shuffled: packing sorts by length.
        packed = [pack_dataset(rows.select(epoch), self.max_length, "bfd") for epoch in epochs if epoch]
        return concatenate_datasets([epoch.shuffle(seed=self.seed + k) for k, epoch in enumerate(packed)])

    def _eval_data(self) -> Any:
        from datasets import Dataset

        table = read_tokens(self.folder, "eval")
        chosen = draw_eval(table["example_id"].to_pylist(), self.config.eval_examples, self.seed)
        return Dataset(table.select(["input_ids", "labels"])).select(chosen)


def _stopping(loaded: Any, model: ModelConfig) -> Any:
    """The weights, with a generation config that ends an answer where the training does."""
    end_id = AnswerTokens(load_renderer(model), model.thinking).end_id
    known = loaded.generation_config.eos_token_id
    known_ids = known if isinstance(known, list) else [] if known is None else [known]
    if end_id not in known_ids:
        loaded.generation_config.eos_token_id = [end_id, *known_ids]
    return loaded


def _ids_and_weights(table: pa.Table) -> tuple[list[str], list[float]]:
    return table["example_id"].to_pylist(), table["weight"].to_pylist()


def write_examples(
    opened: OpenStage,
    source: Artifact | None,
    config: Config,
    tokenise: AnswerTokens,
    max_length: int,
    seed: int,
    held_out: Container[bytes] = frozenset(),
) -> tuple[pa.Array, Counter[str]]:
    """Every Revision row's examples, and the config's own, as parts and token files; the units, and how they ended.

    Written anew by every attempt: the training reads just what this attempt wrote.
    """
    ids: list[str] = []

    def made() -> Iterator[list[Outcome]]:
        for table in source.tables() if source is not None else ():
            revisions = table.to_pylist()
            ids.extend(unit for row in revisions for unit in unit_ids(row, config))
            yield [one for row in revisions for one in examples(row, config, seed)]
        for batch in batched(own_examples(config.examples, config.eval_fraction, held_out, seed)):
            ids.extend(one.row_id for one in batch)
            yield batch

    def ends(files: TokenFiles) -> Iterator[list[Outcome]]:
        for batch in made():
            fitting = [_fitting(one, tokenise, max_length) for one in batch]
            files.write((example.row["split"], tokens) for example, tokens in fitting if tokens is not None)
            yield [example for example, _ in fitting]

    with TokenFiles(opened.folder) as files:
        written = write_outcomes(opened, ends(files), SFT_EXAMPLE)
    return pa.array(ids, pa.string()), written.counters + written.gone_by_reason


def _fitting(made: Outcome, tokenise: AnswerTokens, max_length: int) -> tuple[Outcome, dict[str, Any] | None]:
    """An example with its row of TOKEN_ROW; dropped, not cut, when it is too long."""
    if made.drop is None:
        tokens = tokenise(made.row["messages"])
        if len(tokens) <= max_length:
            counters = {f"num_{made.row['split']}": 1, TRAINED_TOKENS: len(tokens)}
            return made._replace(counters=counters), token_row(made.row_id, made.row["weight"], tokens)
        detail = f"prompt and answer have {len(tokens)} tokens, max_length is {max_length}"
        made = Outcome(made.row_id, DropRow(DropReason.TOO_LONG, detail))
    return made._replace(counters={TRAINED_TOKENS: 0}), None


def job_of(config: Config, context: Context, model: ModelConfig, max_length: int, counts: Counter[str]) -> TrainingJob:
    """What the launcher is asked to do. Raises ConfigError when nothing is left to learn."""
    folder = context.folder(STAGE)
    epochs = schedule(*_ids_and_weights(read_tokens(folder, "train")), config.optim.epochs, context.seed)
    num_examples = sum(map(len, epochs))
    if not num_examples:
        raise ConfigError(_nothing_left(config, counts, max_length))
    return TrainingJob(
        stage=STAGE,
        folder=folder,
        fingerprint=context.fingerprints[STAGE],
        seed=context.seed,
        num_examples=num_examples,
        model=model,
        make_trainer=MakeSftTrainer(folder, model, config, max_length, context.seed),
        # The epochs are laid out in the data already, each with its own draw.
        optim=config.optim.model_copy(update={"epochs": 1.0}),
        workers=config.workers,
        keep=config.keep,
        evaluate=counts["num_eval"] > 0,
        model_card=model_card(config, model, counts),
        proof=proof_of("sft", config.proof, context, config.model, model, _own_answers(folder)),
    )


def _own_answers(folder: Storage) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of the training examples."""
    for row in read_tokens(folder, "train").to_pylist():
        num_prompt = sum(label == IGNORED for label in row["labels"])
        yield row["input_ids"][:num_prompt], row["input_ids"][num_prompt:]


def _nothing_left(config: Config, counts: Counter[str], max_length: int) -> str:
    filters = {
        LeftOutReason.FLAG: f"exclude_flags={list(config.exclude_flags)}",
        LeftOutReason.HELD_OUT: "the run's own test prompts",
        DropReason.MALFORMED: "records that do not end in an answer",
        DropReason.TOO_LONG: f"max_length={max_length}",
        DropReason.EMPTY: "empty answers",
    }
    ends = [f"{counts[reason]} left behind by {name}" for reason, name in filters.items() if counts[reason]]
    if counts["num_eval"]:
        ends.append(f"{counts['num_eval']} held out (split test, eval_fraction={config.eval_fraction})")
    asked = (
        f"revision_index={config.revision_index!r}, revised_weight={config.revised_weight:g}, "
        f"helpful_weight={config.helpful_weight:g}"
    )
    return (
        f"{STAGE}: no example is left to train on: {', '.join(ends) or f'the revisions hold none for {asked}'}; "
        "relax what dropped most, or revise more prompts"
    )


def model_card(config: Config, model: ModelConfig, counts: Counter[str]) -> str:
    """README.md of the saved model."""
    how = "low-rank adapters, merged" if config.lora else "every weight"
    name = name_of(model.path)
    learned = "its own revisions and helpful answers (Bai et al. 2022, section 3)"
    if config.examples:
        learned = f"the examples of {', '.join(source.source for source in config.examples)}"
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        "tags: [constitutional-ai, sft, cai_ray]\n---\n\n"
        "# SL-CAI policy\n\n"
        f"`{name}` after supervised fine-tuning on {learned}, made with cai_ray.\n\n"
        f"- examples: {counts['num_train']} to learn, {counts['num_eval']} held out by prompt\n"
        f"- revisions: {config.revision_index}, weight {config.revised_weight:g}; helpful answers: weight "
        f"{config.helpful_weight:g}\n"
        f"- trained: {how}; {config.optim.epochs:g} epochs, batch size {config.optim.batch_size}, "
        f"learning rate {config.optim.learning_rate:g} ({config.optim.schedule})\n"
    )


def run(config: Config, context: Context, source_stage: str | None) -> Artifact:
    """Make the examples of `source_stage`'s revisions, where the run makes some, and of the config's sets; train."""
    source = context.artifact(source_stage) if source_stage is not None else None
    model = local_path(context.model(config.model))
    opened = open_stage(context.spec(STAGE, config, EXAMPLE_IDS, *([source] if source is not None else [])))
    if isinstance(opened, Artifact):
        return opened
    max_length = context_length(model, config.max_length)
    tokenise = AnswerTokens(load_renderer(model), model.thinking)
    held_out = held_out_texts(context) if config.examples else frozenset()
    ids, counts = write_examples(opened, source, config, tokenise, max_length, context.seed, held_out)
    trained = train(job_of(config, context, model, max_length, counts), context.cluster)
    artifact = opened.commit(ids, trained.files)
    delete_tokens(opened.folder)
    return artifact


def step(config: Config, source_stage: str | None) -> Step:
    """Of a run; makes the model `sl_cai`."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        trains=config.model,
        makes="sl_cai",
        reads=(source_stage,) if source_stage is not None else (),
        identity=lambda: input_identity(config.examples),
        files=lambda: input_files(config.examples),
        exports={"sft": export_sft},
    )
