"""Comparisons -> training pairs: AI labels of harmlessness and human choices of helpfulness, in one kind of row.

Every comparison that is read ends exactly once, as a training pair or as a Dropped row. Pure: files and models are
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from pydantic import Field, model_validator

from cai_ray.artifacts.identity import Input
from cai_ray.chat import Message, split_thinking
from cai_ray.config import MICROWORLD, ThinkingConfig
from cai_ray.config import Config as BaseConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import names_and_sizes
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.files import BadRecord, read_records
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.pairs import bind_pair_columns, parse_pair
from cai_ray.prompt_layouts.records import Fields
from cai_ray.quality.thoughts import without_thoughts
from cai_ray.row_ids import prompt_id_of
from cai_ray.seeding import digest

# (messages, answer) -> the tokens a model is given first, and those it learns to say or is scored on.
Encode = Callable[[list[Message], str], tuple[list[int], list[int]]]
_SAMPLE_RECORDS = 100  # read ahead to find the columns


class HelpfulPairsConfig(BaseConfig):
    """One set of human comparisons."""

    path: InputPath = Field(
        MICROWORLD,
        min_length=1,
        description='File, folder, glob, pyarrow URI, "hf://org/name[:config[:split]]", or "microworld".',
    )
    format: FileFormat = Field("auto", description="File format; auto goes by the suffix.")
    name: str | None = Field(None, min_length=1, description="Names the pairs' ids; null: the path's last part.")
    columns: dict[str, str | None] = Field(
        default_factory=dict, description="Field (prompt, chosen, rejected) -> column, where the names differ."
    )
    weight: float = Field(1.0, gt=0, description="How often each pair is seen per epoch, on average.")
    split: Literal["train", "test"] = Field("train", description='"test": all of it is for evaluation only.')
    limit: int | None = Field(None, ge=1, description="Read this many records, the first ones.")
    num_pairs: int = Field(2000, ge=1, description='Pairs to make; path "microworld" only.')

    @property
    def source(self) -> str:
        """The name on the pairs' ids."""
        last = self.path.rstrip("/").rsplit("/", 1)[-1]
        return self.name or last.removesuffix(".gz").rsplit(".", 1)[0] or last

    @model_validator(mode="after")
    def _microworld_only(self) -> HelpfulPairsConfig:
        if self.path != MICROWORLD and self.num_pairs != type(self).model_fields["num_pairs"].default:
            raise ValueError(f'num_pairs is for path "{MICROWORLD}", not for {self.path!r}; use limit')
        return self


class PairOptions(BaseConfig):
    """Which pairs to learn from, and how."""

    targets: Literal["soft", "hard"] = Field(
        "soft", description='"soft": the label\'s probability; "hard": 1 for whatever was chosen (not in the paper).'
    )
    ai_weight: float = Field(1.0, gt=0, description="How often each AI-labelled pair is seen per epoch, on average.")
    helpful_pairs: tuple[HelpfulPairsConfig, ...] = Field((), description="Human choices of helpfulness to mix in.")
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

    @model_validator(mode="after")
    def _names_differ(self) -> PairOptions:
        names = [source.source for source in self.helpful_pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two of helpful_pairs are called {name!r}, and pair ids need different ones; set `name`"
                )
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
    """All comparisons: the Preference rows `labels`, then each set of human pairs. Raises ConfigError, see `_human`."""
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
    for source in options.helpful_pairs:
        yield from _microworld(source, seed) if source.path == MICROWORLD else _human(source)


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
    """For the fingerprint: name and size of each local file of human pairs."""
    return {source.source: names_and_sizes(source.path) for source in options.helpful_pairs}


def input_files(options: PairOptions) -> list[Input]:
    """What the human pairs are read from."""
    return [
        Input(source.path, f"helpful pairs {source.source}", source.format)
        for source in options.helpful_pairs
        if source.path != MICROWORLD
    ]


def _spoken(text: str, thinking: ThinkingConfig) -> str:
    return without_thoughts(split_thinking(text, thinking)[1])


def _microworld(source: HelpfulPairsConfig, seed: int) -> Iterator[Comparison]:
    from cai_ray.microworld.helpful_pairs import sample_helpful_pairs

    for number, pair in enumerate(sample_helpful_pairs(source.num_pairs, seed)[: source.limit]):
        messages = list(pair.messages)
        yield _chosen_by_human(source, number, messages, pair.chosen, pair.rejected, pair.split == "test")


def _human(source: HelpfulPairsConfig) -> Iterator[Comparison]:
    """Raises ConfigError when the set cannot be read or has no columns `chosen` and `rejected`."""
    records = islice(read_records(source.path, source.format), source.limit)
    columns: dict[str, str | None] | None = None
    while batch := list(islice(records, _SAMPLE_RECORDS)):
        sample = [record for _, record in batch if isinstance(record, dict)]
        if columns is None and sample:
            try:
                columns = bind_pair_columns(sample, source.columns)
            except ConfigError as error:
                raise ConfigError(f"{source.path}: {error}") from None
        for number, record in chain(batch, records) if columns else batch:
            yield _parsed(source, number, record, columns or {})


def _parsed(
    source: HelpfulPairsConfig, number: int, record: dict[str, Any] | BadRecord, columns: dict[str, str | None]
) -> Comparison:
    try:
        if isinstance(record, BadRecord):
            raise DropRow(record.reason, record.detail)
        pair = parse_pair(Fields(record, columns))
    except DropRow as drop:
        return _chosen_by_human(source, number, [], "", "", False, drop)
    return _chosen_by_human(source, number, pair.messages, pair.chosen, pair.rejected, source.split == "test")


def _chosen_by_human(
    source: HelpfulPairsConfig,
    number: int,
    messages: list[Message],
    chosen: str,
    rejected: str,
    is_test: bool,
    problem: DropRow | None = None,
) -> Comparison:
    return Comparison(
        pair_id=f"{source.source}:{number}",
        prompt_id=prompt_id_of(messages, source.source),
        messages=messages,
        chosen=chosen,
        rejected=rejected,
        prob_chosen=1.0,
        label_source="human",
        weight=source.weight,
        is_test=is_test,
        problem=problem,
    )
