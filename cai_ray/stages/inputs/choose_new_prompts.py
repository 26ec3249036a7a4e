"""Which of the requests a model wrote become prompts. Pure and deterministic: asks are taken in order of their id.

Every prompt read and every request written ends exactly once, as a Prompt, dropped or left out; an ask that came to
nothing is one dropped row, too.

Tested in tests/stages/inputs/test_expand_prompts.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome
from cai_ray.config import Config
from cai_ray.dropped import DropReason, DropRow, LeftOutReason, drop_of
from cai_ray.quality.gates import near_duplicates
from cai_ray.row_ids import prompt_id_of

SOURCE = "expanded"  # the new prompts' `source`


class SelectionConfig(Config):
    """What a written request must be to become a prompt."""

    min_words: int = Field(3, ge=1, description="Shorter requests are left out.")
    max_words: int = Field(100, ge=1, description="Longer requests are left out, and longer seeds are not shown.")
    near_duplicate_jaccard: float | None = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="Drop a request whose word 5-shingles are this similar to a seed's or an earlier request's; "
        "null: only exact repeats. One word changed in twenty is 0.5.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> SelectionConfig:
        if self.max_words < self.min_words:
            raise ValueError(f"max_words={self.max_words} is below min_words={self.min_words}; raise it")
        return self


class Candidate(NamedTuple):
    """One request that a model wrote."""

    row_id: str  # "<ask_id>/<position>"
    order: str  # sorts as (ask, position)
    text: str
    split: str
    category: str | None
    truncated: bool


def candidates_of(asks: Iterable[dict[str, Any]]) -> list[Candidate]:
    """Every request of the asks (rows of expand_prompts.ASK_SCHEMA, any order), in order."""
    found = []
    for ask in sorted(asks, key=lambda ask: ask["ask_id"]):
        for j, text in enumerate(ask["requests"]):
            cut_off = ask["truncated"] and j == len(ask["requests"]) - 1
            order = f"{ask['ask_id']}/{j:06d}"
            found.append(Candidate(f"{ask['ask_id']}/{j}", order, text, ask["split"], ask["category"], cut_off))
    return found


def choose(
    candidates: Sequence[Candidate], seeds: Iterable[tuple[str, str]], config: SelectionConfig, num_new: int
) -> dict[str, DropRow | None]:
    """By row id: None for the first `num_new` requests that pass, else why it is dropped.

    `seeds` are (prompt id, text) of every prompt there is already, whatever its kind.
    """
    known = list(seeds)
    verdicts: dict[str, DropRow | None] = {}
    seen = {normal_form(text) for _, text in known}
    passed = []
    for candidate in candidates:
        verdicts[candidate.row_id] = _fault(candidate, seen, config)
        if verdicts[candidate.row_id] is None:
            seen.add(normal_form(candidate.text))
            passed.append(candidate)
    if config.near_duplicate_jaccard is not None:
        # Of a cluster the smallest id stays, so seeds sort before requests.
        texts = [(f"0/{prompt_id}", text) for prompt_id, text in known]
        texts += [(f"1/{candidate.order}", candidate.text) for candidate in passed]
        repeats = near_duplicates(texts, config.near_duplicate_jaccard)
        for candidate in passed:
            original = repeats.get(f"1/{candidate.order}")
            if original is not None:
                drop = DropRow(DropReason.NEAR_DUPLICATE, f"nearly repeats {original[2:]}")
                verdicts[candidate.row_id] = drop
        passed = [candidate for candidate in passed if verdicts[candidate.row_id] is None]
    for candidate in passed[num_new:]:
        verdicts[candidate.row_id] = DropRow(LeftOutReason.LIMIT, f"num_new={num_new} prompts were there already")
    return verdicts


def _fault(candidate: Candidate, seen: set[str], config: SelectionConfig) -> DropRow | None:
    num_words = len(candidate.text.split())
    if candidate.truncated:
        return DropRow(DropReason.TRUNCATED, "the reply was cut off at max_tokens in the middle of this request")
    if num_words == 0:
        return DropRow(DropReason.EMPTY, "no text")
    if num_words < config.min_words:
        return DropRow(LeftOutReason.LENGTH, f"{num_words} words, fewer than min_words={config.min_words}")
    if num_words > config.max_words:
        return DropRow(LeftOutReason.LENGTH, f"{num_words} words, more than max_words={config.max_words}")
    if normal_form(candidate.text) in seen:
        return DropRow(DropReason.DUPLICATE, "repeats a seed or an earlier request")
    return None


def normal_form(text: str) -> str:
    """What two texts share when one repeats the other: case and white space are not significant."""
    return " ".join(text.casefold().split())


def new_prompt(candidate: Candidate) -> dict[str, Any]:
    """A Prompt row. Its licence is unknown: a model wrote it."""
    messages = [{"role": "user", "content": candidate.text}]
    return {
        "prompt_id": prompt_id_of(messages, SOURCE),
        "messages": messages,
        "kind": "red_team",
        "source": SOURCE,
        "source_row": candidate.row_id,
        "category": candidate.category,
        "split": candidate.split,
        "license": None,
    }


def outcomes(
    source: Artifact, asks: Artifact, config: SelectionConfig, num_new: int, keep_seeds: bool
) -> Iterator[Outcome]:
    """Every unit's outcome: the prompts of `source`, the requests of `asks`, the asks that were dropped."""
    for row in source.rows():
        passes = keep_seeds or row["kind"] != "red_team"
        yield Outcome(row["source_row"], row if passes else DropRow(LeftOutReason.SEED, "keep_seeds is false"))
    candidates = candidates_of(asks.rows())
    texts = ((row["prompt_id"], row["messages"][-1]["content"]) for row in source.rows(("prompt_id", "messages")))
    verdicts = choose(candidates, texts, config, num_new)
    for candidate in candidates:
        yield Outcome(candidate.row_id, verdicts[candidate.row_id] or new_prompt(candidate))
    for row in sorted(asks.dropped(), key=lambda row: row["row_id"]):
        yield Outcome(row["row_id"], drop_of(row))
