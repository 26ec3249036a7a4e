"""Read sets of pairs that others have made, to be labelled.  records -> Pair.

In place of `sample_pairs`. Every record ends exactly once, as a pair or dropped; the driver reads, and starts over
when it was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, batched, derive, outcome
from cai_ray.config import MICROWORLD, StageConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.pairs import ParsedPair
from cai_ray.row_ids import PAIR_IDS, prompt_id_of, text_key
from cai_ray.rows import PAIR
from cai_ray.seeding import digest, rng_for
from cai_ray.stages.context import Context
from cai_ray.stages.preferences.pair_sources import PairSetConfig, pairs_files, pairs_identity, read_pairs
from cai_ray.stages.sampled_responses import check_comparable
from cai_ray.stages.step import Step

STAGE = "load_pairs"
_UNKNOWN = float("nan")  # nobody says at which temperature these answers were sampled


class Config(StageConfig):
    """What `labels.pairs` asks for."""

    sources: tuple[PairSetConfig, ...]


def outcomes(config: Config, run_seed: int) -> Iterator[Outcome]:
    """The end of every record of every set, in their order."""
    seen: set[bytes] = set()
    for source in config.sources:
        records = _microworld(source, run_seed) if source.path == MICROWORLD else read_pairs(source)
        for number, found in records:
            pair_id = f"{source.source}:{number}"
            yield outcome(pair_id, partial(_pair, source, pair_id, found, run_seed, seen))


def _pair(
    source: PairSetConfig, pair_id: str, found: ParsedPair | DropRow, run_seed: int, seen: set[bytes]
) -> dict[str, Any]:
    """A row of PAIR. Raises DropRow; adds what tells the pair from others to `seen`."""
    if isinstance(found, DropRow):
        raise found
    answers = [found.chosen, found.rejected]
    check_comparable(answers, (0, 1))
    key = digest(text_key(found.messages).hex(), sorted(answers), num_bytes=8)
    if key in seen:
        raise DropRow(DropReason.DUPLICATE, "an earlier record asks the same of the same two answers")
    seen.add(key)
    return pair_row(source, pair_id, found, run_seed)


def pair_row(source: PairSetConfig, pair_id: str, pair: ParsedPair, run_seed: int) -> dict[str, Any]:
    """A row of PAIR; which answer is A is drawn."""
    answers = (pair.chosen, pair.rejected)
    first, second = answers[::-1] if rng_for(run_seed, STAGE, pair_id, "order").random() < 0.5 else answers
    return {
        "pair_id": pair_id,
        "prompt_id": prompt_id_of(pair.messages, source.source),
        "messages": pair.messages,
        "kind": source.kind,
        "category": None,
        "split": _split(source, pair),
        "response_a": first,
        "response_b": second,
        "temperature_a": _UNKNOWN,
        "temperature_b": _UNKNOWN,
        "policy": source.source,
    }


def _split(source: PairSetConfig, pair: ParsedPair) -> str:
    """By the prompt's text alone, so that a prompt is on one side whatever set or run it is in."""
    if source.test_fraction == 0:
        return source.split
    share = int.from_bytes(digest("split", text_key(pair.messages).hex(), num_bytes=8), "big") / 2**64
    return "test" if share < source.test_fraction else "train"


def _microworld(source: PairSetConfig, run_seed: int) -> Iterator[tuple[int, ParsedPair]]:
    from cai_ray.microworld.helpful_pairs import sample_helpful_pairs

    for number, pair in enumerate(sample_helpful_pairs(source.num_pairs, run_seed)[: source.limit]):
        yield number, ParsedPair(list(pair.messages), pair.chosen, pair.rejected)


def run(config: Config, context: Context) -> Artifact:
    """Load every set."""
    return derive(context.spec(STAGE, config, PAIR_IDS), batched(outcomes(config, context.seed)), PAIR)


def step(config: Config) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context),
        identity=lambda: pairs_identity(config.sources),
        files=lambda: pairs_files(config.sources, "pairs"),
    )
