"""Layouts that hold a comparison: one conversation and two answers to it, the better one known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.conversations import _transcript_turns, _turns
from cai_ray.prompt_layouts.records import Fields, conversation, text_of

FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class ParsedPair:
    """What one record says.

    Attributes:
        messages: >= 1, ends in role "user".
        chosen, rejected: the two answers; may be empty or equal, which is for the reader to judge.
    """

    messages: list[Message]
    chosen: str
    rejected: str


def bind_pair_columns(
    sample: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None] | None = None
) -> dict[str, str | None]:
    """Which column holds which of FIELDS in a set, `columns` before any guess; a set may have no "prompt".

    Raises ConfigError for a field that is none, and for a column that is not there.
    """
    given = dict(columns or {})
    present = list(dict.fromkeys(column for record in sample for column in record))
    listed = ", ".join(map(repr, present)) or "no columns"
    for field, column in given.items():
        if field not in FIELDS:
            raise ConfigError(f"columns: pairs have no field {field!r}; they have {', '.join(FIELDS)}")
        if column is not None and column not in present:
            raise ConfigError(f"columns.{field}={column!r}: no such column; the set has {listed}")
    bound = {field: given.get(field, field if field in present else None) for field in FIELDS}
    for field in ("chosen", "rejected"):
        if bound[field] is None:
            raise ConfigError(
                f"pairs need a column {field!r}; the set has {listed}; set columns: {{{field}: <column>}}"
            )
    return bound


def parse_pair(fields: Fields) -> ParsedPair:
    """One record, in any of the layouts in use. Raises DropRow with the reason why it is no pair.

    hh-rlhf and TRL's implicit prompt: `chosen` and `rejected` are whole conversations (transcripts or lists of
    messages) and the prompt is their common prefix of whole turns, up to the last common turn of the user.
    TRL's explicit prompt: `prompt` is text, a transcript or a list of messages; `chosen` and `rejected` go on from
    there, or repeat it.
    """
    prompt = _prompt_turns(fields)
    chosen, rejected = (_side(fields, side, prompt) for side in ("chosen", "rejected"))
    num_common = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        num_common += 1
    while num_common and chosen[num_common - 1]["role"] != "user":
        num_common -= 1
    if not num_common:
        raise DropRow(DropReason.MALFORMED, "chosen and rejected have no turn of the user in common")
    return ParsedPair(
        conversation(chosen[:num_common]),
        _answer(chosen[num_common:], "chosen"),
        _answer(rejected[num_common:], "rejected"),
    )


def _prompt_turns(fields: Fields) -> list[Message] | None:
    """The explicit prompt; None when the set has none."""
    if fields.columns.get("prompt") is None:
        return None
    value = fields["prompt"]
    if isinstance(value, str) and not value.lstrip().startswith("Human:"):
        return [{"role": "user", "content": text_of(value, "prompt")}]
    return _list_or_transcript(value, "prompt")


def _side(fields: Fields, field: str, prompt: list[Message] | None) -> list[Message]:
    """The whole conversation of one side."""
    value = fields[field]
    if prompt is None:
        return _list_or_transcript(value, field)
    if isinstance(value, str):
        if value.lstrip().startswith("Human:"):
            return _list_or_transcript(value, field)
        return [*prompt, {"role": "assistant", "content": text_of(value, field, may_be_empty=True)}]
    turns = _list_or_transcript(value, field)
    return [*prompt, *turns] if turns[0]["role"] == "assistant" else turns


def _list_or_transcript(value: Any, field: str) -> list[Message]:
    if isinstance(value, list):
        return _turns(value, "role", "content")
    turns = _transcript_turns(f"\n\n{text_of(value, field)}")
    # A prompt's open "Assistant:" is a cue for the answer, no turn.
    return turns[:-1] if field == "prompt" and turns[-1] == {"role": "assistant", "content": ""} else turns


def _answer(turns: list[Message], side: str) -> str:
    if [turn["role"] for turn in turns] != ["assistant"]:
        raise DropRow(
            DropReason.MALFORMED, f"{side} goes on from the common turns with {len(turns)} turns, not one answer"
        )
    return turns[0]["content"]
