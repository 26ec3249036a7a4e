"""What the stages planned so far would have written, and the models that would be there.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.config import MICROWORLD, ModelConfig, StageConfig
from cai_ray.constitution.principles import Constitution
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import Recipe
from cai_ray.planning.devices import Hardware
from cai_ray.planning.sizes import Shape, shape_of
from cai_ray.planning.stand_in_engine import Sample, Usages
from cai_ray.planning.tokens import Counter, Lengths, counter_of, mean_tokens, microworld_replies
from cai_ray.planning.work import IDLE, Work, engine_work
from cai_ray.prompt_layouts.mixture import mixture_sizes
from cai_ray.row_ids import prompt_id_of
from cai_ray.seeding import digest
from cai_ray.stages.context import Context
from cai_ray.stages.inputs.sources import load
from cai_ray.stages.prompt_sources import Config as PromptsConfig
from cai_ray.stages.prompt_sources import PromptSourceConfig
from cai_ray.stages.step import Step

SAMPLED = 48  # rows per kind and split of a prompt set that are worked out in full
ENDPOINT_CONTEXT = 131072


@dataclass(frozen=True)
class PlannedModel:
    """A model of the recipe, or one that a stage of the run is to train."""

    config: ModelConfig
    counter: Counter

    @cached_property
    def shape(self) -> Shape:
        """Raises ConfigError for weights of unknown size."""
        return shape_of(self.config)

    @property
    def context(self) -> int:
        """Tokens; an endpoint's is not known, and taken to suffice."""
        if self.config.endpoint is not None:
            return self.config.max_model_len or ENDPOINT_CONTEXT
        return self.config.max_model_len or self.shape.context


@dataclass
class World:
    """Grows stage by stage."""

    recipe: Recipe
    hardware: Hardware
    constitution: Constitution | None
    models: dict[str, PlannedModel]
    in_microworld: bool  # the prompts are in its language, and so are all replies
    written: dict[str, Sample] = field(default_factory=dict)  # stage -> rows it would have written
    notes: list[str] = field(default_factory=list)  # what had to be assumed on the way
    used: set[str] = field(default_factory=set)  # names of models

    def model(self, name: str) -> PlannedModel:
        """Raises ConfigError when neither the recipe nor a stage before has it."""
        if name not in self.models:
            raise ConfigError(f"model {name!r} is not in the recipe's models ({', '.join(self.models)}); add it there")
        self.used.add(name)
        return self.models[name]

    @property
    def writer(self) -> PlannedModel:
        """Whose words stand in for texts that are not here: the policy's, or the first model's."""
        return self.models.get("policy") or next(iter(self.models.values()))

    def engines(self, used: Usages, model: PlannedModel, max_engines: int) -> Work:
        """The work of asking a model; an endpoint's is somebody else's."""
        if model.config.endpoint is not None:
            return IDLE
        return engine_work(used, model.shape, model.config.engine, max_engines, self.hardware)

    def trained(self, name: str, base: str) -> None:
        """A stage trains `base` into the model `name`, which then answers as its revisions read."""
        made = self.model(base)
        lengths = made.counter.lengths
        known = {**lengths.known, **({"answer": lengths.known["revision"]} if "revision" in lengths.known else {})}
        if made.config.thinking is not None:
            known["thinking"] = 1  # it learns to answer at once, see answer_tokens
        shares = {**lengths.shares, "answer": lengths.shares["revision"]}
        taught = replace(lengths, known=known, shares=shares)
        self.models[name] = replace(made, counter=replace(made.counter, lengths=taught))

    def measured(self, name: str, known: Mapping[str, float]) -> None:
        """Replies of a model were measured in a finished stage: tokens by kind of reply."""
        made = self.model(name)
        lengths = replace(made.counter.lengths, source="measured in this run", known=dict(known))
        self.models[name] = replace(made, counter=replace(made.counter, lengths=lengths))

    def context(self) -> Context:
        """What stages build their jobs from. Every model counts as given, trained or not."""
        return Context(
            run=Storage(self.recipe.output) / self.recipe.name,
            seed=self.recipe.seed,
            models={name: model.config for name, model in self.models.items()},
            trained={},
            constitution=self.constitution,
            cluster=self.recipe.cluster,
            fingerprints={},
        )


def world_of(recipe: Recipe, hardware: Hardware, constitution: Constitution | None) -> World:
    """Before the first stage."""
    given = recipe.asked_models
    prompts = [recipe.prompts, recipe.ppo.prompts if recipe.ppo is not None else None]
    sources = [source for config in prompts if config is not None for source in config.all_sources()]
    in_microworld = bool(sources) and all(source.path == MICROWORLD for source in sources)
    counters: dict[str, Counter] = {}
    models = {}
    for name, config in given.items():
        key = config.model_dump_json(exclude={"engine"})
        counters[key] = counters.get(key) or _counter(config, hardware, in_microworld)
        models[name] = PlannedModel(config, counters[key])
    return World(recipe, hardware, constitution, models, in_microworld)


def _counter(config: ModelConfig, hardware: Hardware, in_microworld: bool) -> Counter:
    assumed = hardware.assumptions
    shares = {
        "answer": assumed.answer_share,
        "critique": assumed.critique_share,
        "revision": assumed.revision_share,
        "reasoning": assumed.reasoning_share,
        "thinking": assumed.thinking_share,
        "requests": assumed.answer_share,
    }
    counter = counter_of(config, Lengths("a share of max_tokens", shares))
    if not in_microworld:
        return counter
    known = {kind: mean_tokens(counter.renderer, texts) for kind, texts in microworld_replies().items()}
    return replace(counter, lengths=Lengths("the micro world's language", shares, known))


C = TypeVar("C", bound=StageConfig)


def config_of(step: Step, kind: type[C]) -> C:
    """The step's config, known to be of this kind."""
    assert isinstance(step.config, kind)
    return step.config


# --- Rows ------------------------------------------------------------------------------------------------


def stratified(rows: Iterable[dict[str, Any]], by: tuple[str, ...], total: float | None = None) -> Sample:
    """At most SAMPLED rows of each kind, those of smallest hash; each stands for its share of its kind.

    `total`: how many rows they all stand for together; None: as many as there are.
    """
    counts: dict[tuple[Any, ...], int] = {}
    kept: dict[tuple[Any, ...], list[tuple[int, int, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        kind = tuple(row.get(column) for column in by)
        counts[kind] = counts.get(kind, 0) + 1
        key = -int.from_bytes(digest("plan", str(row.get("prompt_id")), number, num_bytes=8), "big")
        heap = kept.setdefault(kind, [])
        if len(heap) < SAMPLED:
            heapq.heappush(heap, (key, number, row))
        else:
            heapq.heappushpop(heap, (key, number, row))
    chosen = [(row, counts[kind] / len(heap)) for kind, heap in kept.items() for _, _, row in sorted(heap, key=_number)]
    sample = Sample([row for row, _ in chosen], [weight for _, weight in chosen])
    return sample if total is None or not sample.num_rows else sample.scaled(total / sample.num_rows)


def each(sample: Sample) -> Iterable[tuple[dict[str, Any], float]]:
    """Rows and their weights."""
    return zip(sample.rows, sample.weights, strict=True)


def _number(entry: tuple[int, int, dict[str, Any]]) -> int:
    return entry[1]


def of_artifact(artifact: Artifact) -> Sample:
    """A finished stage's rows."""
    columns = set(artifact.manifest.files and next(artifact.tables()).column_names)
    by = tuple(column for column in ("kind", "split") if column in columns)
    return stratified(artifact.rows(), by, artifact.manifest.rows_out)


def prompts_of(config: PromptsConfig, world: World) -> Sample:
    """The rows that load_prompts would write: read where the files are here, else made up from `limit`."""
    seed = world.recipe.seed
    sources = config.all_sources()
    samples = [_source(world, source, seed) for source in sources]
    counts = [round(sample.num_rows) for sample in samples]
    weights = [source.weight for source in sources if source.weight is not None]
    sizes = mixture_sizes(counts, weights or None, config.limit)
    scaled = [sample.scaled(size / max(1, count)) for sample, size, count in zip(samples, sizes, counts, strict=True)]
    return Sample([row for s in scaled for row in s.rows], [weight for s in scaled for weight in s.weights])


def _source(world: World, source: PromptSourceConfig, seed: int) -> Sample:
    alone = source.model_copy(update={"weight": None})
    if not source.path.startswith("hf://"):
        try:
            rows = (loaded.row for loaded in load(PromptsConfig(sources=(alone,)), seed) if loaded.drop is None)
            return stratified(rows, ("kind", "split"))
        except ConfigError:
            if source.limit is None:
                raise
    if source.limit is None:
        raise ConfigError(
            f"how many prompts {source.path} holds is not known before it is read; set its `limit`, or load it first: "
            "cai-ray run RECIPE --until load_prompts"
        )
    world.notes.append(
        f"{source.source} was not read: {source.limit:,} prompts (its limit) of "
        f"{world.hardware.assumptions.prompt_tokens} tokens"
    )
    return _made_up(world, source)


def _made_up(world: World, source: PromptSourceConfig) -> Sample:
    assert source.limit is not None
    counter = world.writer.counter
    num = min(SAMPLED, source.limit)
    in_test = round(num * source.test_fraction) if source.test_fraction else num * (source.split == "test")
    rows = []
    for k in range(num):
        text, _ = counter.reply(random.Random(k), world.hardware.assumptions.prompt_tokens)
        messages = [{"role": "user", "content": text}]
        rows.append(
            {
                "prompt_id": prompt_id_of(messages, source.source),
                "messages": messages,
                "kind": source.kind or "red_team",
                "source": source.source,
                "source_row": f"{source.source}:{k}",
                "category": None,
                "split": "test" if k < in_test else "train",
                "license": source.license,
            }
        )
    return Sample(rows, [source.limit / num] * num)
