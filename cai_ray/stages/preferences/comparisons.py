"""Comparisons -> training pairs: AI labels, human choices of helpfulness and sets of your own, in one kind of row.

Every comparison that is read ends exactly once, as a training pair or as a Dropped row. Pure: files and models are
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from cai_ray.artifacts.identity import Input
from cai_ray.chat import Message, split_thinking
from cai_ray.config import MICROWORLD, ThinkingConfig
from cai_ray.config import Config as BaseConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.pairs import ParsedPair
from cai_ray.quality.thoughts import without_thoughts
from cai_ray.row_ids import prompt_id_of
from cai_ray.seeding import digest
from cai_ray.stages.preferences.pair_sources import (
    HelpfulPairsConfig,
    PreferenceSetConfig,
    check_names,
    pairs_files,
    pairs_identity,
    read_pairs,
)

# (messages, answer) -> the tokens a model is given first, and those it learns to say or is scored on.
Encode = Callable[[list[Message], str], tuple[list[int], list[int]]]


class PairOptions(BaseConfig):
    """Which pairs to learn from, and how."""

    targets: Literal["soft", "hard"] = Field(
        "soft", description='"soft": the label\'s probability; "hard": 1 for whatever was chosen (not in the paper).'
    )
    ai_weight: float = Field(1.0, gt=0, description="How often each AI-labelled pair is seen per epoch, on average.")
    helpful_pairs: tuple[HelpfulPairsConfig, ...] = Field((), description="Human choices of helpfulness to mix in.")
    preferences: tuple[PreferenceSetConfig, ...] = Field(
        (),
        exclude_if=lambda sets: not sets,  # a run without them is the run that it was before there were any
        description="Preferences of your own: in place of the section labels, or beside it where the recipe has one.",
    )
    eval_fraction: float = Field(
        0.05, ge=0.0, lt=1.0, description="Share of the train split's prompts kept for evaluation, by hash."
    )
    eval_pairs: int = Field(
        1024, ge=1, description="Most evaluation pairs that the eval loss is taken over while training, drawn by seed."
    )
    max_length: int | None = Field(
        None, ge=2, description="Longest prompt and answer, tokens; longer pairs are dropped. null: the context."
    )
    thinking: ThinkingConfig = Field(
        ThinkingConfig(), description="Reasoning at the start of an answer is taken off: it is never scored."
    )

    @property
    def sets(self) -> tuple[HelpfulPairsConfig, ...]:
        """Every set of pairs from outside the run."""
        return (*self.preferences, *self.helpful_pairs)

    @model_validator(mode="after")
    def _names_differ(self) -> PairOptions:
        check_names(self.sets, "preferences and helpful_pairs" if self.preferences else "helpful_pairs")
        return self


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison as it was read.

    Attributes:
        problem: why the record is no comparison; the texts are then empty.
    """

    pair_id: str
    prompt_id: str
    messages: list[Message]
    chosen: str
    rejected: str
    prob_chosen: float
    label_source: Literal["ai", "human"]
    weight: float
    is_test: bool
    problem: DropRow | None = None


def comparisons(options: PairOptions, labels: Iterable[dict[str, Any]], seed: int) -> Iterator[Comparison]:
    """All comparisons: the Preference rows `labels`, then each set of pairs. Raises ConfigError, see `read_pairs`."""
    for row in labels:
        yield Comparison(
            pair_id=row["pair_id"],
            prompt_id=row["prompt_id"],
            messages=row["messages"],
            chosen=row["chosen"],
            rejected=row["rejected"],
            prob_chosen=row["prob_chosen"],
            label_source="ai",
            weight=options.ai_weight,
            is_test=row["split"] == "test",
        )
    for source in options.sets:
        yield from _microworld(source, seed) if source.path == MICROWORLD else _read(source)


def training_pair(
    comparison: Comparison, options: PairOptions, encode: Encode, max_length: int, seed: int
) -> dict[str, Any]:
    """A row of TRAINING_PAIR. Raises DropRow: what made the record unreadable, empty_response, identical, too_long."""
    if comparison.problem is not None:
        raise comparison.problem
    chosen, rejected = (_spoken(text, options.thinking) for text in (comparison.chosen, comparison.rejected))
    for side, text in (("chosen", chosen), ("rejected", rejected)):
        if not text:
            raise DropRow(DropReason.EMPTY_RESPONSE, f"{side} holds no answer")
    if chosen == rejected:
        raise DropRow(DropReason.IDENTICAL, "both answers are the same text")
    given, liked = encode(comparison.messages, chosen)
    _, disliked = encode(comparison.messages, rejected)
    longest = len(given) + max(len(liked), len(disliked))
    if longest > max_length:
        raise DropRow(DropReason.TOO_LONG, f"prompt and answer take {longest} tokens, max_length is {max_length}")
    return {
        "pair_id": comparison.pair_id,
        "prompt_id": comparison.prompt_id,
        "prompt": comparison.messages,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "prob_chosen": comparison.prob_chosen,
        "label_source": comparison.label_source,
        "weight": comparison.weight,
        "split": split_of(comparison, options.eval_fraction, seed),
        "prompt_tokens": given,
        "chosen_tokens": liked,
        "rejected_tokens": disliked,
    }


def split_of(comparison: Comparison, eval_fraction: float, seed: int) -> Literal["train", "eval"]:
    """ "eval" for the test split and for a seeded share of the other prompts.

    By the words of the conversation, not by its source: a prompt that occurs in two sets is on one side.
    """
    if comparison.is_test:
        return "eval"
    words = [[message["role"], message["content"].strip()] for message in comparison.messages]
    share = int.from_bytes(digest("pairs eval", seed, words, num_bytes=8), "big") / 2**64
    return "eval" if share < eval_fraction else "train"


def input_identity(options: PairOptions) -> dict[str, Any]:
    """For the fingerprint: name and size of each local file of pairs."""
    return pairs_identity(options.sets)


def input_files(options: PairOptions) -> list[Input]:
    """What the sets of pairs are read from."""
    return pairs_files(options.helpful_pairs, "helpful pairs") + pairs_files(options.preferences, "preferences")


def _spoken(text: str, thinking: ThinkingConfig) -> str:
    return without_thoughts(split_thinking(text, thinking)[1])


def _microworld(source: HelpfulPairsConfig, seed: int) -> Iterator[Comparison]:
    from cai_ray.microworld.helpful_pairs import sample_helpful_pairs

    for number, pair in enumerate(sample_helpful_pairs(source.num_pairs, seed)[: source.limit]):
        messages = list(pair.messages)
        yield _of_set(source, number, ParsedPair(messages, pair.chosen, pair.rejected), pair.split == "test")


def _read(source: HelpfulPairsConfig) -> Iterator[Comparison]:
    for number, found in read_pairs(source):
        yield _of_set(source, number, found, source.split == "test")


def _of_set(source: HelpfulPairsConfig, number: int, found: ParsedPair | DropRow, is_test: bool) -> Comparison:
    pair, problem = (found, None) if isinstance(found, ParsedPair) else (ParsedPair([], "", ""), found)
    if pair.prob_chosen == 0.5:
        problem = DropRow(DropReason.TIE, "the set says that neither answer is better")
    return Comparison(
        pair_id=f"{source.source}:{number}",
        prompt_id=prompt_id_of(pair.messages, source.source),
        messages=pair.messages,
        chosen=pair.chosen,
        rejected=pair.rejected,
        prob_chosen=pair.prob_chosen or 0.5,
        label_source=source.label_source if isinstance(source, PreferenceSetConfig) else "human",
        weight=source.weight,
        is_test=is_test,
        problem=problem,
    )
