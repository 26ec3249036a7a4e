"""Revision rows -> SFT examples: which answers are learned, how often, and which are held out.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cai_ray.artifacts.derived import Outcome
from cai_ray.config import StageConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.row_ids import example_id_of
from cai_ray.seeding import digest, rng_for

STAGE = "train_sft"  # also the address of every draw
RevisionPolicy = Literal["all", "last"] | Annotated[int, Field(ge=0)]


class ExampleOptions(StageConfig):
    """Which examples are made of the revisions; part of the recipe's section `sft`."""

    revision_index: RevisionPolicy = Field(
        "all", description='Learn every round\'s revision (the paper), the "last", or the one of this index, from 0.'
    )
    revised_weight: float = Field(1.0, ge=0, description="Expected times per epoch of each revision; 0: none.")
    helpful_weight: float = Field(
        1.0, ge=0, description="Expected times per epoch of each answer to a helpful prompt; 0: none."
    )
    exclude_flags: tuple[str, ...] = Field(
        (), description="Leave out answers with one of these flags (cleaning rules and gates, as revise wrote them)."
    )
    eval_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of the prompts held out, besides those of split test."
    )


def unit_ids(row: dict[str, Any], options: ExampleOptions) -> list[str]:
    """The examples that one Revision row asks for; reads `prompt_id`, `sample_index`, `kind`, `revisions`."""
    chosen = _chosen(row, options)
    return [example_id_of(row["prompt_id"], row["sample_index"], index) for index in chosen]


def _chosen(row: dict[str, Any], options: ExampleOptions) -> Sequence[int | None]:
    """Indices of the revisions to learn; [None] for the answer to a helpful prompt."""
    if row["kind"] == "helpful":
        return [None] if options.helpful_weight > 0 else []
    num_rounds = len(row["revisions"])
    if options.revised_weight == 0 or num_rounds == 0:
        return []
    if options.revision_index == "all":
        return range(num_rounds)
    if options.revision_index == "last":
        return [num_rounds - 1]
    return [options.revision_index] if options.revision_index < num_rounds else []


def examples(row: dict[str, Any], options: ExampleOptions, seed: int) -> Iterator[Outcome]:
    """Each example that one Revision row asks for."""
    split = split_of(row["prompt_id"], row["split"], options.eval_fraction, seed)
    for index in _chosen(row, options):
        example_id = example_id_of(row["prompt_id"], row["sample_index"], index)
        text, flags = _answer(row, index)
        found = sorted(set(flags) & set(options.exclude_flags))
        if found:
            yield Outcome(example_id, DropRow(LeftOutReason.FLAG, f"flags: {', '.join(found)}"))
        elif not text.strip():
            yield Outcome(example_id, DropRow(DropReason.EMPTY, "the answer has no text"))
        else:
            example = {
                "example_id": example_id,
                "prompt_id": row["prompt_id"],
                "messages": [*row["messages"], {"role": "assistant", "content": text.strip()}],
                "source": "helpful" if index is None else "revised",
                "revision_index": index,
                "weight": options.helpful_weight if index is None else options.revised_weight,
                "split": split,
            }
            yield Outcome(example_id, example)


def _answer(row: dict[str, Any], index: int | None) -> tuple[str, Sequence[str]]:
    if index is None:
        return row["initial_response"], row["initial_flags"]
    done = row["revisions"][index]
    return done["revision"], done["flags"]


def split_of(prompt_id: str, split: str, eval_fraction: float, seed: int) -> str:
    """ "train" or "eval", the same for every example of a prompt."""
    share = int.from_bytes(digest(STAGE, "split", seed, prompt_id, num_bytes=8), "big") / 2**64
    return "eval" if split == "test" or share < eval_fraction else "train"


def schedule(ids: Sequence[str], weights: Sequence[float], epochs: float, seed: int) -> list[list[int]]:
    """Positions in the order they are learned, one list per epoch; the last is cut short when `epochs` is not whole.

    In each epoch example i comes floor(weights[i]) times, and once more with the probability of the rest.
    """
    found = []
    for epoch in range(math.ceil(epochs)):
        drawn: list[int] = []
        for position, (example_id, weight) in enumerate(zip(ids, weights, strict=True)):
            whole = math.floor(weight)
            rest = weight - whole
            extra = rest > 0 and rng_for(seed, STAGE, example_id, f"epoch {epoch}").random() < rest
            drawn += [position] * (whole + extra)
        rng_for(seed, STAGE, "order", f"epoch {epoch}").shuffle(drawn)
        found.append(drawn[: round(len(drawn) * min(1.0, epochs - epoch))])
    return found


def draw_eval(ids: Sequence[str], limit: int, seed: int) -> list[int]:
    """Positions of at most `limit` examples, in their stored order; the same ones every time."""
    if len(ids) <= limit:
        return list(range(len(ids)))
    ranked = sorted(range(len(ids)), key=lambda position: digest(STAGE, "eval", seed, ids[position]))
    return sorted(ranked[:limit])
