"""n answers of one model to each prompt: what `sample_pairs` pairs and `evaluate` scores.  Prompt -> Responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.config import ModelConfig, SamplingConfig, ScalingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations
from cai_ray.quality.thoughts import without_thoughts
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.rows import RESPONSES, ROW_ID
from cai_ray.stages.context import Context

CARRIED = ("prompt_id", "messages", "kind", "category", "split")  # Prompt columns kept on Responses


@dataclass(frozen=True)
class Sampled:
    """Which prompts a model answers, how often and how. Travels to the workers: everything in it pickles."""

    stage: str  # whose artifact it is for; decides the seeds
    policy: str  # name of the model that answers
    sampling: SamplingConfig  # of each sample, but for its temperature
    temperatures: tuple[float, ...]  # [samples_per_prompt], in order of the sample index
    select: Callable[[pa.Table], pa.Table]  # Prompt rows -> those to answer
    select_columns: tuple[str, ...] = ()  # Prompt columns that `select` reads besides prompt_id


async def sample(row: dict[str, Any], ask: Ask, *, wanted: Sampled) -> dict[str, Any]:
    """All answers to one prompt; a row of the RESPONSES schema.

    One after the other: request k has seed k, the prompt is prefilled once, and the other rows fill the batch.
    """
    answers = [
        await ask(row["messages"], wanted.sampling.model_copy(update={"temperature": temperature}))
        for temperature in wanted.temperatures
    ]
    return {
        **{column: row[column] for column in CARRIED},
        "responses": [without_thoughts(answer.text) for answer in answers],
        "temperatures": list(wanted.temperatures),
        "policy": wanted.policy,
        "finish_reasons": [answer.finish_reason for answer in answers],
        "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "num_cached_tokens": sum(answer.num_cached_tokens for answer in answers),
        "num_output_tokens": sum(answer.num_output_tokens for answer in answers),
    }


def expand_units(prompts: pa.Table, *, wanted: Sampled) -> pa.Table:
    """Prompt rows -> units of work: one per prompt that is to be answered."""
    units = wanted.select(prompts)
    return units.append_column(ROW_ID, units["prompt_id"])


def job_of(wanted: Sampled, model: ModelConfig, run_seed: int) -> ConversationJob:
    """What the conversation engine is asked to do."""
    return ConversationJob(
        stage=wanted.stage,
        seed=run_seed,
        schema=RESPONSES,
        converse=partial(sample, wanted=wanted),
        expand=partial(expand_units, wanted=wanted),
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=64 + wanted.sampling.max_tokens // 2,
    )


def conversations(
    wanted: Sampled, spec: StageSpec, name: str, source: Artifact, scaling: ScalingConfig, context: Context
) -> Conversations:
    """For `run_together`: answer every prompt of `source` that is to be answered, into `name` within the stage's."""
    model = context.model(wanted.policy)
    job = job_of(wanted, model, context.seed)
    unit_columns = ("prompt_id", *wanted.select_columns)
    return Conversations(spec.inner(name, RESPONSES_IDS, source), source, unit_columns, job, model, scaling)


def check_comparable(texts: Sequence[str], indices: Sequence[int]) -> None:
    """Raises DropRow for two samples that nobody can choose between: EMPTY_RESPONSE, IDENTICAL."""
    for k, text in zip(indices, texts, strict=True):
        if not text.strip():
            raise DropRow(DropReason.EMPTY_RESPONSE, f"sample {k} holds no text")
    if texts[0].split() == texts[1].split():
        raise DropRow(DropReason.IDENTICAL, f"samples {indices[0]} and {indices[1]} are the same but for white space")
