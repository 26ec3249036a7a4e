"""Critique and revise answers to red-team prompts.  Prompt -> Revision.

The supervised half of the paper (section 3): an answer, then rounds of critique and revision, each by a
principle drawn for that round. Helpful prompts are answered and not revised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.counters import flag_counter
from cai_ray.artifacts.summaries.revision import RevisionSummary
from cai_ray.chat import Message
from cai_ray.config import SamplingConfig, ScalingConfig, StageConfig
from cai_ray.constitution.draw import PrincipleChoice, draw
from cai_ray.constitution.principles import Constitution, Principle
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.errors import ConfigError
from cai_ray.prompts.revision import (
    RevisionPrompts,
    Round,
    answer_prompt,
    critique_prompt,
    few_shot_messages,
    revision_prompt,
)
from cai_ray.quality.cleaning import CleaningConfig
from cai_ray.quality.gates import Gate, GatesConfig, row_gates
from cai_ray.row_ids import REVISION_IDS
from cai_ray.rows import REVISION, ROW_ID
from cai_ray.stages.context import Context
from cai_ray.stages.revision import summary
from cai_ray.stages.revision.dialogue import Dialogue
from cai_ray.stages.revision.improvement import ScorerName, improvement
from cai_ray.stages.revision.near_duplicates import drop_near_duplicates
from cai_ray.stages.step import Step, shown

STAGE = "revise"
MEASURED_ROWS = 256  # whose texts' log-probabilities the summary is made of
CARRIED = ("prompt_id", "kind", "source", "category", "split", "license", "messages")  # Prompt columns kept on the row
Similarity = Callable[[str], list[float]]  # a prompt's text -> [num_principles]


class Config(StageConfig):
    """The recipe's section `revise`."""

    model: str = Field("policy", description="Which of the recipe's models answers, critiques and revises.")
    num_revisions: int = Field(4, ge=0, le=32, description="Rounds per answer; the paper makes 4.")
    critique: bool = Field(True, description="False: revise directly, without a critique first.")
    principles: PrincipleChoice = PrincipleChoice()
    principle_ids: tuple[str, ...] = Field((), description="Draw from these principles only; empty: from all.")
    similarity: str = Field(
        "lexical", description='For contextual choice: "lexical", or an encoder model to embed with.'
    )
    samples_per_prompt: int = Field(1, ge=1, description="Dialogues per red-team prompt.")
    helpful_samples: int = Field(1, ge=1, description="Answers per helpful prompt; these are not revised.")
    answer_sampling: SamplingConfig = SamplingConfig()
    critique_sampling: SamplingConfig = SamplingConfig()
    revision_sampling: SamplingConfig = SamplingConfig()
    prompts: RevisionPrompts = RevisionPrompts()
    cleaning: CleaningConfig = CleaningConfig()
    gates: GatesConfig = GatesConfig()
    scorer: ScorerName | None = Field(None, description="Scorer of gates.not_improved.")
    truncated: Gate = Field("flag", description="An answer or revision cut off at max_tokens.")
    scaling: ScalingConfig = ScalingConfig()

    @model_validator(mode="after")
    def _scorer_named(self) -> Config:
        if self.gates.not_improved != "off" and self.scorer is None:
            raise ValueError(
                f'gates.not_improved is "{self.gates.not_improved}" but no scorer is named; '
                'set scorer to "comparison" (the model judges) or "microworld" (the oracle)'
            )
        return self


async def revise(
    row: dict[str, Any],
    ask: Ask,
    *,
    config: Config,
    constitution: Constitution,
    seed: int,
    similarity: Similarity | None,
) -> dict[str, Any]:
    """The whole dialogue of one unit of work; a row of the REVISION schema. Raises DropRow."""
    messages: list[Message] = row["messages"]
    dialogue = Dialogue(ask, config.cleaning, config.truncated, config.gates)
    num_rounds = 0 if row["kind"] == "helpful" else config.num_revisions
    principles = _draw(row, config, constitution, seed, similarity, num_rounds)
    few_shot = few_shot_messages(constitution, config.prompts, principles, config.critique)
    if ask.max_model_len is not None:
        _check_room(messages, principles, few_shot, ask, config)

    initial, initial_flags = await dialogue.answer(answer_prompt(messages, config.prompts), config.answer_sampling)
    rounds: list[Round] = []
    flags: list[list[str]] = []
    current = initial
    for principle in principles:
        critique: str | None = None
        critique_flags: list[str] = []
        if config.critique:
            asked = critique_prompt(messages, initial, rounds, principle, config.prompts, few_shot)
            critique, critique_flags = await dialogue.critique(asked, config.critique_sampling)
        asked = revision_prompt(messages, initial, rounds, principle, critique, config.prompts, few_shot)
        revised, revision_flags = await dialogue.answer(asked, config.revision_sampling)
        done = Round(principle, critique, revised)
        gate_flags = await _gates(config, ask, messages, current, done, row[ROW_ID], seed)
        rounds.append(done)
        flags.append([*critique_flags, *revision_flags, *gate_flags])
        current = revised
    return {
        **{column: row[column] for column in CARRIED},
        "sample_index": row["sample_index"],
        "initial_response": initial,
        "initial_flags": initial_flags,
        "revisions": [
            {"principle_id": done.principle.id, "critique": done.critique, "revision": done.revision, "flags": found}
            for done, found in zip(rounds, flags, strict=True)
        ],
        **dialogue.columns(),
    }


def _draw(
    row: dict[str, Any],
    config: Config,
    constitution: Constitution,
    seed: int,
    similarity: Similarity | None,
    num_rounds: int,
) -> list[Principle]:
    if not num_rounds:
        return []
    similarities = None
    if similarity is not None:
        similarities = similarity("\n".join(m["content"] for m in row["messages"] if m["role"] == "user"))
    return draw(
        constitution,
        config.principles,
        run_seed=seed,
        row_id=row[ROW_ID],
        num_rounds=num_rounds,
        stage=STAGE,
        similarities=similarities,
    )


async def _gates(
    config: Config,
    ask: Ask,
    messages: list[Message],
    before: str,
    done: Round,
    row_id: str,
    seed: int,
) -> list[str]:
    principle, after = done.principle, done.revision
    scores: tuple[float, float] | tuple[None, None] = (None, None)
    if config.gates.not_improved != "off" and config.scorer is not None:
        scores = await improvement(config.scorer, ask, messages, before, after, principle, row_id, seed)
    fired = row_gates(before, after, config.gates, done.critique, *scores)
    for flag in fired:
        if flag.drop:
            raise DropRow(flag.gate, f"principle {principle.id}: {flag.detail}")
    return [str(flag.gate) for flag in fired]


def _check_room(
    messages: list[Message], principles: list[Principle], few_shot: list[Message], ask: Ask, config: Config
) -> None:
    """Raise DropRow(TOO_LONG) now rather than after three rounds, if the last request could overflow the context."""
    per_round = config.revision_sampling.max_tokens + (config.critique_sampling.max_tokens if config.critique else 0)
    num_open = len(principles) if config.prompts.history == "full" else min(1, len(principles))
    if principles:
        critique = "." if config.critique else None
        done = [Round(principle, critique, ".") for principle in principles[:-1]]
        last = revision_prompt(messages, ".", done, principles[-1], critique, config.prompts, few_shot)
    else:
        last = answer_prompt(messages, config.prompts)
    num_fixed = ask.count_tokens(last)
    if num_fixed is None or ask.max_model_len is None:
        return
    needed = num_fixed + config.answer_sampling.max_tokens + num_open * per_round
    if needed > ask.max_model_len:
        raise DropRow(
            DropReason.TOO_LONG,
            f"prompt, requests and answers of {len(principles)} rounds can take {needed} tokens, "
            f"the context holds {ask.max_model_len}",
        )


def expand_units(prompts: pa.Table, *, config: Config) -> pa.Table:
    """Prompt rows -> units of work: one per sample, with `sample_index` and `row_id`."""
    is_helpful = pc.equal(prompts["kind"], "helpful").to_numpy(zero_copy_only=False)
    repeats = np.where(is_helpful, config.helpful_samples, config.samples_per_prompt)
    units = prompts.take(pa.array(np.repeat(np.arange(prompts.num_rows), repeats)))
    firsts = np.repeat(np.cumsum(repeats) - repeats, repeats)
    units = units.append_column("sample_index", pa.array(np.arange(units.num_rows) - firsts, pa.int32()))
    return units.append_column(ROW_ID, REVISION_IDS(units))


def count_flags(row: dict[str, Any]) -> dict[str, int]:
    """Counters of one Revision row for the manifest: rounds, and each cleaning rule and gate that fired."""
    counts = Counter(map(flag_counter, row["initial_flags"]))
    for done in row["revisions"]:
        counts.update(map(flag_counter, done["flags"]))
    counts["num_revisions"] = len(row["revisions"])
    counts["num_neutralised"] = row["num_neutralised"]
    return dict(counts)


def expected_tokens(config: Config) -> int:
    """A dialogue's final context as a first guess: every answer half as long as it may be."""
    answers = config.answer_sampling.max_tokens + config.num_revisions * (
        config.revision_sampling.max_tokens + (config.critique_sampling.max_tokens if config.critique else 0)
    )
    return 64 + answers // 2 + 48 * config.num_revisions


def similarity_of(config: Config, constitution: Constitution) -> Similarity | None:
    """What contextual choice measures with; None for the other methods."""
    if config.principles.method != "contextual":
        return None
    from cai_ray.constitution.similarity import LexicalSimilarity, principle_text
    from cai_ray.engines.models.sentences import EmbeddingSimilarity

    texts = [principle_text(principle) for principle in constitution.serving("revision")]
    return LexicalSimilarity(texts) if config.similarity == "lexical" else EmbeddingSimilarity(config.similarity, texts)


def job_of(config: Config, context: Context) -> ConversationJob:
    """What the conversation engine is asked to do."""
    model = context.model(config.model)
    if model.endpoint is not None and config.gates.incoherent != "off":
        raise ConfigError(
            f'revise.gates.incoherent is "{config.gates.incoherent}", and model {config.model!r} is an endpoint, which '
            'gives no log-probabilities of its answers here; set it to "off", or load the model by `path`'
        )
    constitution = context.principles()
    if config.principle_ids:
        constitution = constitution.only(config.principle_ids)
    return ConversationJob(
        stage=STAGE,
        seed=context.seed,
        schema=REVISION,
        converse=partial(
            revise,
            config=config,
            constitution=constitution,
            seed=context.seed,
            similarity=similarity_of(config, constitution),
        ),
        expand=partial(expand_units, config=config),
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=expected_tokens(config),
        count=count_flags,
        measured_rows=MEASURED_ROWS if config.gates.incoherent == "off" else None,
    )


def conversations(config: Config, context: Context, source_stage: str) -> Conversations:
    """What is asked of which model, and where the stage reads and writes."""
    source = context.artifact(source_stage)
    settle = partial(drop_near_duplicates, gates=config.gates) if config.gates.near_duplicate != "off" else None
    return Conversations(
        context.spec(STAGE, config, REVISION_IDS, source),
        source,
        ("prompt_id", "kind"),
        job_of(config, context),
        context.model(config.model),
        config.scaling,
        settle,
    )


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Revise every prompt of `source_stage` that is not revised yet."""
    return run_conversations(conversations(config, context, source_stage), context.cluster)


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(config.model,),
        reads=(source_stage,),
        needs_constitution=True,
        units=REVISION_IDS,
        summary=shown(RevisionSummary, summary.summarise, summary.table),
    )
