"""Sample answers from the policy and pair them.  Prompt -> Responses -> Pair.

Two artifacts: `samples` holds every answer of each prompt and is what a killed run goes on from; the stage itself
pairs them, which is quick and pure. The paper pairs two samples of the SL-CAI policy (section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain, combinations
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.counters import flag_counter
from cai_ray.artifacts.derived import Outcome, batched, counted, derive, outcome
from cai_ray.config import SamplingConfig, ScalingConfig, StageConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason, drop_of
from cai_ray.engines.conversations.stage import run_together
from cai_ray.errors import ConfigError
from cai_ray.quality.gates import Gate
from cai_ray.row_ids import PAIR_IDS, pair_id_of
from cai_ray.rows import PAIR
from cai_ray.seeding import digest, rng_for
from cai_ray.stages import sampled_responses
from cai_ray.stages.context import Context
from cai_ray.stages.step import Step

STAGE = "sample_pairs"
SAMPLES = "samples"  # folder inside the stage's own
TRUNCATED = flag_counter(DropReason.TRUNCATED)  # counter: answers of pairs, cut off at max_tokens

Indices = tuple[int, int]  # (i, j), i < j: sample indices of a pair's answers


class Config(StageConfig):
    """The recipe's section `pairs`."""

    model: str = Field("sl_cai", description="Which of the recipe's models answers.")
    kinds: tuple[Literal["red_team", "helpful"], ...] = Field(
        ("red_team",), min_length=1, description="Prompts of these kinds are answered; the others are left out."
    )
    samples_per_prompt: int = Field(2, ge=2, le=64, description="Answers per prompt; the paper makes 2.")
    temperatures: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="Of the samples in turn: sample k gets number k modulo their count."
    )
    sampling: SamplingConfig = Field(SamplingConfig(), description="Of each sample, but for its temperature.")
    strategy: Literal["first_two", "all", "random"] = Field(
        "first_two", description='Which samples of a prompt are compared; "all": n(n-1)/2 pairs; "random": `num_pairs`.'
    )
    num_pairs: int = Field(1, ge=1, description="Pairs per prompt of the random strategy, all different.")
    truncated: Gate = Field("flag", description='A pair with an answer cut off at max_tokens. "flag": count it.')
    scaling: ScalingConfig = ScalingConfig()

    @model_validator(mode="after")
    def _possible(self) -> Config:
        most = math.comb(self.samples_per_prompt, 2)
        if self.strategy == "random" and self.num_pairs > most:
            raise ValueError(
                f"num_pairs={self.num_pairs}, but {self.samples_per_prompt} samples make {most} different pairs; "
                "lower num_pairs or raise samples_per_prompt"
            )
        if self.strategy != "random" and self.num_pairs != 1:
            raise ValueError(f'num_pairs is for strategy "random", not for "{self.strategy}"; remove it')
        for temperature in self.temperatures:
            if not 0 <= temperature <= 5:
                raise ValueError(f"temperatures holds {temperature}; each must lie in [0, 5]")
        return self

    def temperature(self, sample_index: int) -> float:
        return self.temperatures[sample_index % len(self.temperatures)]


# --- Sampling: Prompt -> Responses --------------------------------------------------------------------


def of_kinds(prompts: pa.Table, *, kinds: tuple[str, ...]) -> pa.Table:
    """The Prompt rows of these kinds."""
    return prompts.filter(pc.is_in(prompts["kind"], value_set=pa.array(kinds, pa.string())))


def sampling_of(config: Config) -> sampled_responses.Sampled:
    """What the model is asked: every prompt of the chosen kinds, at the temperatures in turn."""
    return sampled_responses.Sampled(
        stage=STAGE,
        policy=config.model,
        sampling=config.sampling,
        temperatures=tuple(config.temperature(k) for k in range(config.samples_per_prompt)),
        select=partial(of_kinds, kinds=config.kinds),
        select_columns=("kind",),
    )


# --- Pairing: Responses -> Pair -----------------------------------------------------------------------


def pair_indices(config: Config, prompt_id: str, run_seed: int) -> list[Indices]:
    """Which samples of a prompt are compared: known before any is sampled, sorted."""
    if config.strategy == "first_two":
        return [(0, 1)]
    every = list(combinations(range(config.samples_per_prompt), 2))
    if config.strategy == "all":
        return every
    return sorted(
        sorted(every, key=lambda pair: digest(run_seed, STAGE, prompt_id, "pairs", *pair))[: config.num_pairs]
    )


def is_swapped(pair_id: str, run_seed: int) -> bool:
    """Whether the later sample is A. Drawn by the pair's id alone, so it tells nothing of temperature or index."""
    return rng_for(run_seed, STAGE, pair_id, "order").random() < 0.5


def make_pair(row: dict[str, Any], indices: Indices, config: Config, run_seed: int) -> dict[str, Any]:
    """A row of the PAIR schema from a RESPONSES row. Raises DropRow: EMPTY_RESPONSE, IDENTICAL, TRUNCATED."""
    texts = [row["responses"][k] for k in indices]
    sampled_responses.check_comparable(texts, indices)
    if config.truncated == "drop" and num_truncated(row, indices):
        raise DropRow(DropReason.TRUNCATED, f"an answer was cut off at max_tokens={config.sampling.max_tokens}")
    pair_id = pair_id_of(row["prompt_id"], *indices)
    a, b = indices[::-1] if is_swapped(pair_id, run_seed) else indices
    return {
        **{column: row[column] for column in sampled_responses.CARRIED},
        "pair_id": pair_id,
        "response_a": row["responses"][a],
        "response_b": row["responses"][b],
        "temperature_a": row["temperatures"][a],
        "temperature_b": row["temperatures"][b],
        "policy": row["policy"],
    }


def num_truncated(row: dict[str, Any], indices: Indices) -> int:
    """Of a pair's two answers, those cut off at max_tokens."""
    return sum(row["finish_reasons"][k] == "length" for k in indices)


def outcomes(samples: Artifact, config: Config, run_seed: int) -> Iterator[Outcome]:
    """The end of every pair of every prompt. The pairs of a prompt that was dropped are dropped for its reason."""
    for row in samples.rows():
        for indices in pair_indices(config, row["prompt_id"], run_seed):
            made = outcome(pair_id_of(row["prompt_id"], *indices), partial(make_pair, row, indices, config, run_seed))
            counts = made.drop is None and config.truncated == "flag"
            yield made._replace(counters={TRUNCATED: num_truncated(row, indices) if counts else 0})
    for gone in samples.dropped():
        for indices in pair_indices(config, gone["row_id"], run_seed):
            yield Outcome(pair_id_of(gone["row_id"], *indices), drop_of(gone), {TRUNCATED: 0})


def unasked(source: Artifact, config: Config, run_seed: int) -> Iterator[Outcome]:
    """The pairs that prompts of other kinds would have made."""
    why = DropRow(LeftOutReason.KIND, f"kinds is {', '.join(config.kinds)}")
    for row in source.rows(("prompt_id", "kind")):
        if row["kind"] not in config.kinds:
            for indices in pair_indices(config, row["prompt_id"], run_seed):
                yield Outcome(pair_id_of(row["prompt_id"], *indices), why, {TRUNCATED: 0})


def unit_ids(source: Artifact, config: Config, run_seed: int) -> list[str]:
    """Every pair that the prompts of the chosen kinds are to make. Raises ConfigError when there is none."""
    tables = (of_kinds(table, kinds=config.kinds) for table in source.tables(("prompt_id", "kind")))
    prompt_ids = [prompt_id for table in tables for prompt_id in table["prompt_id"].to_pylist()]
    if not prompt_ids:
        raise ConfigError(
            f"{source.folder.shown} holds no prompt of kind {' or '.join(config.kinds)}; "
            "load some, or add the kind that is there to pairs.kinds"
        )
    return [pair_id_of(p, *indices) for p in prompt_ids for indices in pair_indices(config, p, run_seed)]


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Answer every prompt of `source_stage` that is not answered yet, then pair the answers."""
    source = context.artifact(source_stage)
    spec = context.spec(STAGE, config, PAIR_IDS, source)
    left_out = list(unasked(source, config, context.seed))
    units = [*unit_ids(source, config, context.seed), *(one.row_id for one in left_out)]
    return derive(spec, chain(_paired(config, context, source, spec), batched(left_out)), PAIR, units)


def _paired(config: Config, context: Context, source: Artifact, spec: StageSpec) -> Iterator[list[Outcome]]:
    asked = sampled_responses.conversations(sampling_of(config), spec, SAMPLES, source, config.scaling, context)
    (samples,) = run_together([asked], context.cluster)
    yield from batched(counted(outcomes(samples, config, context.seed), samples.manifest.counters))


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(config.model,),
        reads=(source_stage,),
        leaves_unasked=True,
    )
