"""A model writes new prompts, few-shot from seed prompts.  Prompt -> Prompt.

The paper made 140,335 of its 182,831 red-team prompts that way (section 3.2). Three steps, each an artifact of its
own, so that a killed run goes on where it was: `shots` draws the seeds that each ask shows, `asks` puts them to
the model, and the stage itself chooses among the requests that were written (stages/inputs/choose_new_prompts.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import Field

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, batched, counted, derive
from cai_ray.config import ModelConfig, SamplingConfig, ScalingConfig, StageConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.errors import ConfigError
from cai_ray.prompts.expansion import ExpansionPrompts, expansion_messages, parse_requests
from cai_ray.row_ids import ASK_IDS, PROMPT_IDS, SHOT_IDS
from cai_ray.rows import ASK_SCHEMA, PROMPT, ROW_ID, SHOTS_SCHEMA
from cai_ray.seeding import rng_for
from cai_ray.stages.context import Context
from cai_ray.stages.inputs.choose_new_prompts import SelectionConfig, outcomes
from cai_ray.stages.step import Step

STAGE = "expand_prompts"
SHOTS, ASKS = "shots", "asks"  # folders inside the stage's own


class Config(StageConfig):
    """The recipe's section `expand`."""

    # A model that repeats itself is no fault of the input, so this stage tolerates more than others.
    max_dropped_fraction: float = Field(
        0.9, ge=0.0, le=1.0, description="More dropped rows than this share (repeats count): exit code 3."
    )
    model: str = Field("policy", description="Which of the recipe's models writes the new prompts.")
    num_new: int = Field(512, ge=1, description="New prompts wanted; fewer come out when the model repeats itself.")
    num_shots: int = Field(4, ge=1, description="Seed prompts shown per ask.")
    per_ask: int = Field(4, ge=1, description="New prompts requested per ask.")
    surplus: float = Field(1.5, ge=1.0, description="Ask for this many times num_new, since some are repeats.")
    one_category: bool = Field(
        False, description="Show seeds of one category per ask; the new prompts then carry it, too."
    )
    keep_seeds: bool = Field(
        True, description="Pass the red-team seeds on beside the new prompts. Helpful prompts always pass."
    )
    sampling: SamplingConfig = SamplingConfig()
    prompts: ExpansionPrompts = ExpansionPrompts()
    selection: SelectionConfig = SelectionConfig()
    scaling: ScalingConfig = ScalingConfig()

    @property
    def num_asks(self) -> int:
        return math.ceil(self.num_new * self.surplus / self.per_ask)


@dataclass(frozen=True)
class Seed:
    """A prompt that asks may show."""

    prompt_id: str
    text: str
    split: str
    category: str | None


def seeds_of(prompts: Iterator[dict[str, Any]], max_words: int) -> list[Seed]:
    """The red-team prompts of one turn and at most `max_words` words, sorted by id; Prompt rows in any order."""
    found = []
    for row in prompts:
        spoken = [message for message in row["messages"] if message["role"] != "system"]
        if row["kind"] != "red_team" or len(spoken) != 1 or len(spoken[0]["content"].split()) > max_words:
            continue
        found.append(Seed(row["prompt_id"], spoken[0]["content"], row["split"], row["category"]))
    return sorted(found, key=lambda seed: seed.prompt_id)


def draw_shots(seeds: Sequence[Seed], config: Config, run_seed: int) -> Iterator[dict[str, Any]]:
    """One SHOTS_SCHEMA row per ask. A draw depends on the set of seeds and its address alone (G5).

    The first seed is drawn from all; the others share its split, and its category under `one_category`.
    """
    pools: dict[tuple[str, str | None], list[Seed]] = {}

    def pool_of(seed: Seed) -> tuple[str, str | None]:
        return seed.split, seed.category if config.one_category else None

    for seed in seeds:
        pools.setdefault(pool_of(seed), []).append(seed)
    for index in range(config.num_asks):
        ask_id = f"expand/{index:08d}"
        rng = rng_for(run_seed, STAGE, ask_id, "shots")
        first = seeds[rng.randrange(len(seeds))]
        pool = pools[pool_of(first)]
        others = rng.sample(pool, min(config.num_shots, len(pool)))
        shots = [first, *(seed for seed in others if seed is not first)][: config.num_shots]
        categories = {seed.category for seed in shots}
        yield {
            ROW_ID: ask_id,
            "split": first.split,
            "category": first.category if len(categories) == 1 else None,
            "shot_ids": [seed.prompt_id for seed in shots],
            "shots": [seed.text for seed in shots],
        }


async def expand(row: dict[str, Any], ask: Ask, *, config: Config) -> dict[str, Any]:
    """One ask: a row of ASK_SCHEMA. Raises DropRow(UNPARSABLE) when the reply holds no request."""
    completion = await ask(expansion_messages(row["shots"], config.per_ask, config.prompts), config.sampling)
    if not completion.text.strip():
        raise DropRow(DropReason.EMPTY_RESPONSE, "the reply holds no text")
    requests = parse_requests(completion.text)
    if not requests:
        raise DropRow(DropReason.UNPARSABLE, f"no request found in a reply of {len(completion.text)} characters")
    return {
        "ask_id": row[ROW_ID],
        "split": row["split"],
        "category": row["category"],
        "shot_ids": row["shot_ids"],
        "requests": requests,
        "truncated": completion.finish_reason == "length",
    }


def ask_job(config: Config, model: ModelConfig, run_seed: int) -> ConversationJob:
    """What is done with each ask."""
    return ConversationJob(
        stage=STAGE,
        seed=run_seed,
        schema=ASK_SCHEMA,
        converse=partial(expand, config=config),
        expand=_as_they_are,
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=64 + 32 * config.num_shots + config.sampling.max_tokens // 2,
        count=_count,
    )


def _as_they_are(units: pa.Table) -> pa.Table:
    return units


def _count(row: dict[str, Any]) -> dict[str, int]:
    return {"num_asks": 1, "num_requests_written": len(row["requests"])}


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Write new prompts like those of `source_stage`; the seeds pass on beside them.

    Raises ConfigError when there is no single-turn red-team prompt to show.
    """
    source = context.artifact(source_stage)
    spec = context.spec(STAGE, config, PROMPT_IDS, source)
    return derive(spec, _chosen(config, context, source, spec), PROMPT)


def _chosen(config: Config, context: Context, source: Artifact, spec: StageSpec) -> Iterator[list[Outcome]]:
    """Have the asks answered that are not yet, and choose."""
    model = context.model(config.model)
    shots = draw_all(config, source, spec, context.seed)
    asks = run_conversations(
        Conversations(
            spec.inner(ASKS, ASK_IDS, shots),
            shots,
            (ROW_ID,),
            ask_job(config, model, context.seed),
            model,
            config.scaling,
        ),
        context.cluster,
    )
    found = outcomes(source, asks, config.selection, config.num_new, config.keep_seeds)
    yield from batched(counted(found, asks.manifest.counters))


def draw_all(config: Config, source: Artifact, spec: StageSpec, run_seed: int) -> Artifact:
    """The asks as an artifact inside the stage's, which the engines read."""
    inner = replace(spec.inner(SHOTS, SHOT_IDS), inputs={"source": source.manifest.fingerprint})
    return derive(inner, batched(_drawn(config, source, run_seed)), SHOTS_SCHEMA)


def _drawn(config: Config, source: Artifact, run_seed: int) -> Iterator[Outcome]:
    columns = ("prompt_id", "messages", "kind", "category", "split")
    seeds = seeds_of(source.rows(columns), config.selection.max_words)
    if not seeds:
        raise ConfigError(
            f"expand finds no seed in {source.folder.shown}: it needs red-team prompts of one turn and at most "
            f"selection.max_words={config.selection.max_words} words; load some, or take `expand` out of the recipe"
        )
    for row in draw_shots(seeds, config, run_seed):
        yield Outcome(row[ROW_ID], row)


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(config.model,),
        reads=(source_stage,),
    )
