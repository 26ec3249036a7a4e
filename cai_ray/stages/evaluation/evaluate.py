"""What are a model's answers worth?  Prompt -> Responses of each policy -> Evaluation.

Every policy answers the same prompts with the same seeds, into an artifact of its own under `answers`, which is what
a killed run goes on from; the stage itself scores the answers. Scorers without a model are in scorers.py. Judges are
models (judges/): their judgements and games are further artifacts (run_judges.py, matches.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.counters import flag_counter
from cai_ray.artifacts.derived import Outcome, batched, counted, derive
from cai_ray.artifacts.summaries.evaluation import EvaluationSummary
from cai_ray.config import SamplingConfig, ScalingConfig, StageConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason, drop_of
from cai_ray.engines.conversations.stage import run_together
from cai_ray.errors import ConfigError
from cai_ray.row_ids import EVALUATION_IDS, evaluation_row_id
from cai_ray.rows import EVALUATION
from cai_ray.seeding import digest
from cai_ray.stages import sampled_responses
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation import summary
from cai_ray.stages.evaluation.folders import ANSWERS
from cai_ray.stages.evaluation.folders import STAGE as STAGE  # a stage is known by its own
from cai_ray.stages.evaluation.judges import AnyJudge
from cai_ray.stages.evaluation.judges.base import asked_models, check_names, input_files, input_identity, scoring_models
from cai_ray.stages.evaluation.matches import run_games
from cai_ray.stages.evaluation.run_judges import check, run_judges
from cai_ray.stages.evaluation.scorers import (
    TEXT_SCORERS,
    Answer,
    RuleScorer,
    Scorer,
    ScorerName,
    evaluation,
    in_microworld,
    missing_package,
    scores_of,
)
from cai_ray.stages.step import Step, shown

TRUNCATED = flag_counter(DropReason.TRUNCATED)  # counter: answers that were cut off at max_tokens
T = TypeVar("T")


class AnswerScaling(ScalingConfig):
    """How the policies' answers spread over the cluster."""

    policies_at_once: int = Field(
        1,
        ge=1,
        description="Policies that answer at the same time, each on min_engines to max_engines of its own. "
        "As many as the GPUs hold; on CPUs as many as the memory holds.",
    )


class Config(StageConfig):
    """The recipe's section `evaluate`."""

    policies: tuple[str, ...] = Field(
        ("policy", "sl_cai"),
        min_length=1,
        description="Models of the recipe or of its stages; the others are compared with the first.",
    )
    split: Literal["test", "train", "all"] = Field("test", description="Which prompts are answered.")
    limit: int | None = Field(None, ge=1, description="Most prompts, drawn by the run's seed; null: all.")
    samples_per_prompt: int = Field(1, ge=1, le=64, description="Answers per prompt and policy.")
    sampling: SamplingConfig = SamplingConfig()
    scorers: tuple[ScorerName, ...] = Field(
        (), description='Empty: "microworld" (the oracle) where prompts are in its language, else those that read text.'
    )
    judges: tuple[AnyJudge, ...] = Field((), description="Models that score the answers, besides the scorers.")
    scaling: AnswerScaling = AnswerScaling()

    @model_validator(mode="after")
    def _each_once(self) -> Config:
        check_names(self.judges, self.policies)
        for field, names in (("policies", self.policies), ("scorers", self.scorers)):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field} names {', '.join(repeated)} twice; name each once")
        if missing := missing_package(self.scorers):
            raise ValueError(missing)
        return self


# --- Prompts --------------------------------------------------------------------------------------------


def in_split(prompts: pa.Table, *, split: str) -> pa.Table:
    """The Prompt rows of a split."""
    return prompts if split == "all" else prompts.filter(pc.equal(prompts["split"], split))


def only(prompts: pa.Table, *, prompt_ids: pa.Array) -> pa.Table:
    """The Prompt rows with these ids."""
    return prompts.filter(pc.is_in(prompts["prompt_id"], value_set=prompt_ids))


def chosen_prompts(source: Artifact, config: Config, run_seed: int) -> list[str]:
    """Ids of the prompts to answer. Raises ConfigError when there is none.

    A limit takes those of smallest hash, so the choice does not depend on the order of rows or files.
    """
    tables = (in_split(table, split=config.split) for table in source.tables(["prompt_id", "split"]))
    found: list[str] = [prompt_id for table in tables for prompt_id in table["prompt_id"].to_pylist()]
    if not found:
        hint = "set prompts.test_fraction (0.2, say) and load them anew, or " if config.split == "test" else ""
        raise ConfigError(
            f'{source.folder.shown} holds no prompt of split "{config.split}" to evaluate on; '
            f'{hint}set evaluate.split to "all"'
        )
    if config.limit is None or config.limit >= len(found):
        return found
    return sorted(found, key=lambda prompt_id: digest(run_seed, STAGE, prompt_id, "limit"))[: config.limit]


def left_out_prompts(source: Artifact, config: Config, prompt_ids: Sequence[str]) -> list[tuple[str, DropRow]]:
    """(id, why) of the prompts that are not answered."""
    chosen = frozenset(prompt_ids)
    limit = DropRow(LeftOutReason.LIMIT, f"more than limit={config.limit}")
    split = DropRow(LeftOutReason.SPLIT, f'split is "{config.split}"')
    tables = source.tables(["prompt_id", "split"])
    return [
        (prompt_id, limit if config.split in ("all", own) else split)
        for table in tables
        for prompt_id, own in zip(*(table[name].to_pylist() for name in ("prompt_id", "split")), strict=True)
        if prompt_id not in chosen
    ]


def answered_by(policy: str, config: Config, prompt_ids: Sequence[str]) -> sampled_responses.Sampled:
    """What one policy is asked. The seeds do not depend on the policy, which makes comparisons a little sharper."""
    if config.limit is None:
        select: Any = partial(in_split, split=config.split)
    else:
        select = partial(only, prompt_ids=pa.array(prompt_ids, pa.string()))
    return sampled_responses.Sampled(
        stage=STAGE,
        policy=policy,
        sampling=config.sampling,
        temperatures=(config.sampling.temperature,) * config.samples_per_prompt,
        select=select,
        select_columns=("split",),
    )


def grouped(policies: Sequence[T], config: Config) -> list[Sequence[T]]:
    """What is given per policy, in groups that answer at the same time."""
    size = config.scaling.policies_at_once
    return [policies[start : start + size] for start in range(0, len(policies), size)]


# --- Scores ---------------------------------------------------------------------------------------------


def scorers_of(config: Config, source: Artifact, prompt_ids: Sequence[str]) -> list[Scorer]:
    """The scorers that the config names, or those that suit the prompts."""
    names = config.scorers
    if not names:
        wanted = pa.array(prompt_ids, pa.string())
        tables = (only(table, prompt_ids=wanted) for table in source.tables(["prompt_id", "messages"]))
        known = in_microworld(messages for table in tables for messages in table["messages"].to_pylist())
        names = ("microworld",) if known else TEXT_SCORERS
    return [RuleScorer(name) for name in names]


def outcomes(answers: Artifact, policy: str, scorers: Sequence[Scorer], config: Config) -> Iterator[Outcome]:
    """The end of every answer of a policy. Those of a prompt that was dropped are dropped for its reason."""
    for row in answers.rows():
        for k, (response, finished) in enumerate(zip(row["responses"], row["finish_reasons"], strict=True)):
            answer = Answer(policy, row["prompt_id"], k, row["messages"], response, row["kind"], row["category"])
            row_id = evaluation_row_id(policy, row["prompt_id"], k)
            yield Outcome(
                row_id, evaluation(answer, scores_of(scorers, answer)), {TRUNCATED: int(finished == "length")}
            )
    for gone in answers.dropped():
        for k in range(config.samples_per_prompt):
            yield Outcome(evaluation_row_id(policy, gone["row_id"], k), drop_of(gone), {TRUNCATED: 0})


# --- The stage ------------------------------------------------------------------------------------------


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Have every policy answer what it has not answered yet, have the judges judge, then score the answers."""
    source = context.artifact(source_stage)
    prompt_ids = chosen_prompts(source, config, context.seed)
    spec = context.spec(STAGE, config, EVALUATION_IDS, source)
    unasked = left_out_prompts(source, config, prompt_ids)
    units = [row_id for p in [*prompt_ids, *(p for p, _ in unasked)] for row_id in _row_ids(config, p)]
    ends = (Outcome(row_id, why, {TRUNCATED: 0}) for p, why in unasked for row_id in _row_ids(config, p))
    return derive(spec, chain(_scored(config, context, source, prompt_ids, spec), batched(ends)), EVALUATION, units)


def _row_ids(config: Config, prompt_id: str) -> Iterator[str]:
    """Of a prompt's answers, by every policy."""
    for policy in config.policies:
        for k in range(config.samples_per_prompt):
            yield evaluation_row_id(policy, prompt_id, k)


def _scored(
    config: Config, context: Context, source: Artifact, prompt_ids: Sequence[str], spec: StageSpec
) -> Iterator[list[Outcome]]:
    """The end of every answer, policy by policy."""
    check(config.judges, context)
    answers = _answers(config, context, source, prompt_ids, spec)
    judged = run_judges(config.judges, answers, spec, context)
    run_games(config.judges, answers, spec, context)
    scorers = [*scorers_of(config, source, prompt_ids), *judged]
    for policy, own in answers.items():
        yield from batched(counted(outcomes(own, policy, scorers, config), own.manifest.counters))


def _answers(
    config: Config, context: Context, source: Artifact, prompt_ids: Sequence[str], spec: StageSpec
) -> dict[str, Artifact]:
    """Every policy's answers, in order of the policies."""
    asked = []
    for policy in config.policies:
        wanted = answered_by(policy, config, prompt_ids)
        name = f"{ANSWERS}/{policy}"
        ours = sampled_responses.conversations(wanted, spec, name, source, config.scaling, context)
        asked.append(replace(ours, name=policy))
    answered = [artifact for group in grouped(asked, config) for artifact in run_together(group, context.cluster)]
    return dict(zip(config.policies, answered, strict=True))


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(*config.policies, *asked_models(config.judges)),
        scores_with=scoring_models(config.judges),
        identity=lambda: input_identity(config.judges),
        files=lambda: input_files(config.judges),
        reads=(source_stage,),
        leaves_unasked=True,
        summary=shown(EvaluationSummary, summary.summarise, summary.table),
    )
