"""Read prompt sets and mix them.  records -> Prompt.

Every record that is read ends exactly once: as a Prompt row, dropped, or left out because the recipe does not ask for
it; the two last by the id "<source>:<record number>". A limit ends the reading; records behind it are no input.

Tested in tests/stages/inputs/test_load_prompts.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np

from cai_ray.artifacts.derived import Outcome, outcome
from cai_ray.config import MICROWORLD
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.files import BadRecord, Record, read_records
from cai_ray.prompt_layouts.layouts import BoundLayout, bind_layout, parse_record
from cai_ray.prompt_layouts.mixture import mixture_key, mixture_sizes, smallest
from cai_ray.prompt_layouts.readings import looked_ahead
from cai_ray.prompt_layouts.records import ParsedPrompt, ParseOptions
from cai_ray.quality.gates import near_duplicates_of_signatures, signature
from cai_ray.row_ids import prompt_id_of, text_key
from cai_ray.seeding import digest
from cai_ray.stages.inputs.sides import Sides
from cai_ray.stages.prompt_sources import Config, PromptSourceConfig

STAGE = "load_prompts"
_log = logging.getLogger(__name__)


def load(config: Config, seed: int) -> Iterator[Outcome]:
    """Read all sources; yield each record's end, in the order of the sources and their records.

    Memory holds no rows: 16 bytes per prompt (and per explicit id) to find repetitions; with a mixture
    8 more; with several sources those of `Sides`; with near-duplicate removal the signatures. A mixture and
    near-duplicate removal must know all prompts before they choose, and so read the sources twice; sources of split
    test beside others are read first. The choice depends on `seed` and the prompts alone, not on the order of records
    or files; the side of a text that several sources hold goes by the first of them.

    Raises ConfigError when a source cannot be read or understood.
    """
    plan = _plan(config, seed)
    sides = Sides(_held_out(config, seed)) if len(config.sources) > 1 else None
    left = config.limit if plan.unbounded else None
    for source in config.all_sources():
        for loaded in _read_source(source, seed):
            chosen = plan.apply(source.source, loaded)
            if sides is not None and loaded.drop is None:
                chosen = sides.settle(loaded.row, chosen)
            yield chosen
            if left is not None and chosen.drop is None:
                left -= 1
                if left == 0:
                    return
    if sides is not None and sides.num_shared:
        _log.warning(
            "%d texts are in more than one source; %d of their prompts changed sides, so that each text is in train or "
            "in test",
            sides.num_shared,
            sides.num_moved,
        )


# --- One source --------------------------------------------------------------------------------------


def _read_source(source: PromptSourceConfig, seed: int) -> Iterator[Outcome]:
    """Each record's end, as far as the source alone decides; stops behind `source.limit` prompts."""
    records = (
        _microworld_records(source, seed) if source.path == MICROWORLD else read_records(source.path, source.format)
    )
    seen: set[bytes] = set()
    num_prompts = 0
    for number, record, bound in looked_ahead(records, partial(_bind, source)):
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
        raise DropRow(LeftOutReason.CATEGORY, "its category is not in include_categories")
    if parsed.category in source.exclude_categories:
        raise DropRow(LeftOutReason.CATEGORY, "its category is in exclude_categories")


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
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # source -> exclusive ones of `mixture_key`:
    # of its share by weight, and of what the limit leaves of that

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
            return Outcome(loaded.row_id, DropRow(LeftOutReason.SIMILAR, detail))
        if source in self.bounds:
            key, (share, limit) = mixture_key(self.seed, prompt_id), self.bounds[source]
            if key >= share:
                return Outcome(loaded.row_id, DropRow(LeftOutReason.WEIGHT, "outside its source's share by weight"))
            if key >= limit:
                return Outcome(loaded.row_id, DropRow(LeftOutReason.LIMIT, "outside its source's share of the limit"))
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
    counts = [len(own) for own in keys.values()]
    shares = mixture_sizes(counts, weights or None, None)
    sizes = mixture_sizes(counts, weights or None, config.limit)
    if weights and not sum(sizes):
        empty = [name for name, own in keys.items() if not len(own)]
        raise ConfigError(f"the mixture is empty: no usable prompt in {', '.join(empty) or 'so small a share'}")
    _log.info("mixture: %s", ", ".join(f"{name} {size}" for name, size in zip(keys, sizes, strict=True)))
    bounds = {
        name: (smallest(own, share), smallest(own, size))
        for (name, own), share, size in zip(keys.items(), shares, sizes, strict=True)
    }
    return _Plan(seed, near, bounds)


def _held_out(config: Config, seed: int) -> Iterator[bytes]:
    """The texts of the sources that are for tests alone."""
    for source in config.sources:
        if source.split == "test" and source.test_fraction == 0.0:
            yield from (text_key(row["messages"]) for row in _prompts(source, seed))


def _prompts(source: PromptSourceConfig, seed: int) -> Iterable[dict[str, Any]]:
    return (loaded.row for loaded in _read_source(source, seed) if loaded.drop is None)


def _text(row: dict[str, Any]) -> str:
    return "\n\n".join(message["content"] for message in row["messages"])
