"""Read prompt sets and mix them.  records -> Prompt.

Every record that is read ends exactly once: as a Prompt row, or as a Dropped row whose id is
"<source>:<record number>". A limit ends the reading; records behind it are no input.

Tested in tests/stages/inputs/test_load_prompts.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field, field_validator, model_validator

from cai_ray.artifacts.derived import Outcome, outcome
from cai_ray.config import MICROWORLD, StageConfig
from cai_ray.config import Config as BaseConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.files import BadRecord, Record, read_records
from cai_ray.prompt_layouts.layouts import BoundLayout, LayoutName, bind_layout, parse_record
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.mixture import mixture_key, mixture_sizes, smallest
from cai_ray.prompt_layouts.records import Kind, ParsedPrompt, ParseOptions
from cai_ray.quality.gates import near_duplicates_of_signatures, signature
from cai_ray.row_ids import prompt_id_of
from cai_ray.seeding import digest

STAGE = "load_prompts"
_SAMPLE_RECORDS = 100  # read ahead to find the layout and its columns
_log = logging.getLogger(__name__)


class SourceOptions(BaseConfig):
    """What can be said about one prompt set, wherever it lies."""

    layout: LayoutName = Field("auto", description="How a record holds its prompt; auto looks at the columns.")
    format: FileFormat = Field("auto", description="File format; auto goes by the suffix.")
    name: str | None = Field(None, min_length=1, description="The rows' `source`; null: the file's stem.")
    kind: Kind | None = Field(
        None, description='"red_team": critique and revise; "helpful": only answer; null: as the set says, or red_team.'
    )
    license: str | None = Field(None, description="Licence of the set, kept on every row.")
    split: Literal["train", "test"] = Field("train", description="The rows' split, where test_fraction is 0.")
    test_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the prompts that goes to split test, by the hash of prompt_id."
    )
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="Field (prompt, category, id, ...) -> column, where the guess is wrong; null: no such column.",
    )
    include_categories: tuple[str, ...] = Field((), description="Keep these categories only; empty: all.")
    exclude_categories: tuple[str, ...] = Field((), description="Leave these categories out.")
    functional_categories: tuple[Literal["standard", "contextual", "copyright"], ...] = Field(
        ("standard",), min_length=1, description="HarmBench: behaviours to keep."
    )
    cut_final_answer: bool = Field(
        False, description="Cut an assistant turn at the end (ShareGPT), in place of dropping the row."
    )
    num_prompts: int = Field(512, ge=1, description='Prompts to make; path "microworld" only.')
    harmful_fraction: float = Field(0.625, ge=0.0, le=1.0, description='Share of harmful ones; "microworld" only.')
    harmless_kind: Kind = Field("red_team", description='Kind of the harmless ones; "microworld" only.')
    microworld_seed: int | None = Field(None, description='Seed of the prompts; null: the run\'s. "microworld" only.')


_MICROWORLD_FIELDS = ("num_prompts", "harmful_fraction", "harmless_kind", "microworld_seed")


class PromptSourceConfig(SourceOptions):
    """One prompt set."""

    path: InputPath = Field(
        min_length=1,
        description='File, folder, glob, pyarrow URI, "hf://org/name[:config[:split]]", or "microworld".',
    )
    weight: float | None = Field(
        None, gt=0.0, description="Share in the mixture, any scale; null for every source: take all of each."
    )
    limit: int | None = Field(None, ge=1, description="Most prompts from this source: the first ones.")

    @property
    def source(self) -> str:
        """The name on the rows."""
        return self.name or _default_name(self.path)

    @model_validator(mode="after")
    def _microworld_only(self) -> PromptSourceConfig:
        if self.path != MICROWORLD:
            for key in _MICROWORLD_FIELDS:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f'{key} is for path "{MICROWORLD}", not for {self.path!r}; remove it')
        return self


class Config(StageConfig, SourceOptions):
    """`path` and the options beside it for one prompt set, or `sources` for a mixture; neither: the micro world."""

    path: InputPath | None = Field(None, description="One prompt set, short for `sources` of one; see there.")
    sources: tuple[PromptSourceConfig, ...] = Field((), description="Several prompt sets, mixed by weight.")
    limit: int | None = Field(None, ge=1, description="Most prompts in all.")
    near_duplicate_jaccard: float | None = Field(
        None, gt=0.0, le=1.0, description="Drop prompts whose 5-word shingles overlap this much; null: keep them."
    )

    @field_validator("path")
    @classmethod
    def _not_blank(cls, path: str | None) -> str | None:
        if path is not None and not path.strip():
            raise ValueError("path is empty; name a file, a folder, a URI or hf://org/name")
        return path

    @model_validator(mode="after")
    def _one_way(self) -> Config:
        if self.sources:
            options = {"path": None} | {
                key: info.get_default(call_default_factory=True) for key, info in _OPTIONS.items()
            }
            clash = [key for key, default in options.items() if getattr(self, key) != default]
            if clash:
                raise ValueError(f"{', '.join(clash)} given beside sources; set it inside the source it is meant for")
        names = [source.source for source in self.all_sources()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}, and row ids need different ones; set `name`")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError("some sources have a weight and some have none; give it to all or to none")
        return self

    def all_sources(self) -> tuple[PromptSourceConfig, ...]:
        """The sources, the short form spelt out."""
        if self.sources:
            return self.sources
        options = {key: getattr(self, key) for key in _OPTIONS}
        return (PromptSourceConfig(path=self.path or MICROWORLD, **options),)


_OPTIONS = SourceOptions.model_fields


def _default_name(path: str) -> str:
    """ "data/harmless-test.jsonl.gz" -> "harmless-test"; "data/*.csv" -> "data"; "hf://org/set:x" -> "org/set"."""
    if path.startswith("hf://"):
        return path.removeprefix("hf://").split(":")[0]
    parts = [part for part in PurePosixPath(path.split("://")[-1]).parts if not set(part) & set("*?[")]
    last = parts[-1] if parts else "prompts"
    return last.removesuffix(".gz").rsplit(".", 1)[0] or last


def load(config: Config, seed: int) -> Iterator[Outcome]:
    """Read all sources; yield each record's end, in the order of the sources and their records.

    Memory holds no rows: 16 bytes per prompt (and per explicit id) to find repetitions; with a mixture
    8 more; with near-duplicate removal the signatures. A mixture and near-duplicate removal must know
    all prompts before they choose, and so read the sources twice. The choice depends on `seed` and the
    prompts alone, not on the order of records or files.

    Raises ConfigError when a source cannot be read or understood.
    """
    plan = _plan(config, seed)
    left = config.limit if plan.unbounded else None
    for source in config.all_sources():
        for loaded in _read_source(source, seed):
            chosen = plan.apply(source.source, loaded)
            yield chosen
            if left is not None and chosen.drop is None:
                left -= 1
                if left == 0:
                    return


# --- One source --------------------------------------------------------------------------------------


def _read_source(source: PromptSourceConfig, seed: int) -> Iterator[Outcome]:
    """Each record's end, as far as the source alone decides; stops behind `source.limit` prompts."""
    records = (
        _microworld_records(source, seed) if source.path == MICROWORLD else read_records(source.path, source.format)
    )
    seen: set[bytes] = set()
    num_prompts = 0
    bound: BoundLayout | None = None
    while batch := list(islice(records, _SAMPLE_RECORDS)):
        sample = [record for _, record in batch if isinstance(record, dict)]
        if bound is None and sample:
            bound = _bind(source, sample)
        # Once the layout is known the rest streams; batches with nothing readable in them need none.
        for number, record in chain(batch, records) if bound else batch:
            row_id = f"{source.source}:{number}"
            loaded = outcome(row_id, partial(_prompt_row, source, row_id, record, bound, seen))
            yield loaded
            num_prompts += loaded.drop is None
            if num_prompts == source.limit:
                return


def _bind(source: PromptSourceConfig, sample: list[Record]) -> BoundLayout:
    options = ParseOptions(source.cut_final_answer, source.functional_categories)
    layout = "messages" if source.path == MICROWORLD and source.layout == "auto" else source.layout
    try:
        bound = bind_layout(layout, sample, source.columns, options)
    except ConfigError as error:
        raise ConfigError(f"{source.path}: {error}") from None
    carried = ", ".join(f"{field}={column}" for field, column in bound.columns.items() if column)
    _log.info("%s: layout %s (%s); %s", source.source, bound.name, bound.because, carried)
    return bound


def _prompt_row(
    source: PromptSourceConfig, row_id: str, record: Record | BadRecord, bound: BoundLayout | None, seen: set[bytes]
) -> dict[str, Any]:
    """The record as a Prompt row. Raises DropRow; adds the row's id digests to `seen`."""
    if isinstance(record, BadRecord):
        raise DropRow(record.reason, record.detail)
    parsed = parse_record(cast(BoundLayout, bound), record)
    _filter_category(source, parsed)
    prompt_id = prompt_id_of(parsed.messages, source.source)
    digests = [bytes.fromhex(prompt_id)]
    if parsed.record_id is not None:
        digests.append(digest("record id", parsed.record_id))
        if digests[-1] in seen:
            raise DropRow(DropReason.DUPLICATE_ID, "an earlier record of the source has the same id")
    if digests[0] in seen:
        raise DropRow(DropReason.DUPLICATE, "an earlier record of the source is the same conversation")
    seen.update(digests)
    return {
        "prompt_id": prompt_id,
        "messages": parsed.messages,
        "kind": source.kind or parsed.kind or "red_team",
        "source": source.source,
        "source_row": row_id,
        "category": parsed.category,
        "split": _split(source, prompt_id),
        "license": source.license,
    }


def _filter_category(source: PromptSourceConfig, parsed: ParsedPrompt) -> None:
    if source.include_categories and parsed.category not in source.include_categories:
        raise DropRow(DropReason.FILTERED, "its category is not in include_categories")
    if parsed.category in source.exclude_categories:
        raise DropRow(DropReason.FILTERED, "its category is in exclude_categories")


def _split(source: PromptSourceConfig, prompt_id: str) -> str:
    if source.test_fraction == 0.0:
        return source.split
    # Not by the run's seed: a prompt must not change sides from one run to the next.
    share = int.from_bytes(digest("split", prompt_id, num_bytes=8), "big") / 2**64
    return "test" if share < source.test_fraction else "train"


def _microworld_records(source: PromptSourceConfig, seed: int) -> Iterator[tuple[int, Record | BadRecord]]:
    from cai_ray.microworld.prompt_set import sample_prompts

    own_seed = seed if source.microworld_seed is None else source.microworld_seed
    for number, request in enumerate(sample_prompts(source.num_prompts, own_seed, source.harmful_fraction)):
        kind = "red_team" if request.harmful else source.harmless_kind
        yield number, {"messages": list(request.messages), "category": request.category, "kind": kind}


# --- All sources together ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What was decided over all prompts: which are near duplicates, and where each source's share ends."""

    seed: int
    near_duplicates: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)  # source -> exclusive bound of `mixture_key`

    @property
    def unbounded(self) -> bool:
        """No mixture was drawn, so a limit takes the first prompts."""
        return not self.bounds

    def apply(self, source: str, loaded: Outcome) -> Outcome:
        if loaded.drop is not None:
            return loaded
        prompt_id = loaded.row["prompt_id"]
        if prompt_id in self.near_duplicates:
            detail = f"nearly the same as prompt {self.near_duplicates[prompt_id]}"
            return Outcome(loaded.row_id, DropRow(DropReason.NEAR_DUPLICATE, detail))
        if source in self.bounds and mixture_key(self.seed, prompt_id) >= self.bounds[source]:
            return Outcome(loaded.row_id, DropRow(DropReason.FILTERED, "outside its source's share of the mixture"))
        return loaded


def _plan(config: Config, seed: int) -> _Plan:
    sources = config.all_sources()
    threshold = config.near_duplicate_jaccard
    near: dict[str, str] = {}
    if threshold is not None:
        prompts = chain.from_iterable(_prompts(source, seed) for source in sources)
        near = near_duplicates_of_signatures(((row["prompt_id"], signature(_text(row))) for row in prompts), threshold)
    weights = [source.weight for source in sources if source.weight is not None]
    if len(sources) == 1 or not (weights or config.limit):
        return _Plan(seed, near)
    keys = {
        source.source: np.fromiter(
            (mixture_key(seed, row["prompt_id"]) for row in _prompts(source, seed) if row["prompt_id"] not in near),
            dtype=np.uint64,
        )
        for source in sources
    }
    sizes = mixture_sizes([len(own) for own in keys.values()], weights or None, config.limit)
    if weights and not sum(sizes):
        empty = [name for name, own in keys.items() if not len(own)]
        raise ConfigError(f"the mixture is empty: no usable prompt in {', '.join(empty) or 'so small a share'}")
    _log.info("mixture: %s", ", ".join(f"{name} {size}" for name, size in zip(keys, sizes, strict=True)))
    return _Plan(seed, near, {name: smallest(own, size) for (name, own), size in zip(keys.items(), sizes, strict=True)})


def _prompts(source: PromptSourceConfig, seed: int) -> Iterable[dict[str, Any]]:
    return (loaded.row for loaded in _read_source(source, seed) if loaded.drop is None)


def _text(row: dict[str, Any]) -> str:
    return "\n\n".join(message["content"] for message in row["messages"])
