"""Layouts that hold whole conversations: OpenAI messages, ShareGPT, transcripts, hh-rlhf; and plain text.

Tested in tests/prompt_layouts/test_layouts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cai_ray.chat import Message, transcript_to_messages
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.records import Fields, Kind, ParsedPrompt, ParseOptions, conversation, text_of

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# The cue for the next answer at a transcript's end; no turn.
_OPEN_CUE = re.compile(r"\n\nAssistant:\s*\Z")


def _kind(fields: Fields) -> Kind | None:
    """The record's kind; a column "kind" with other values means something else and says nothing here."""
    value = fields.get("kind")
    return value if value in ("red_team", "helpful") else None


def _prompt(fields: Fields, messages: list[Message]) -> ParsedPrompt:
    return ParsedPrompt(messages, fields.label("category"), fields.label("id"), _kind(fields))


def parse_text(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """A column with one user prompt, taken word for word."""
    return _prompt(fields, [{"role": "user", "content": fields.text("prompt")}])


def parse_messages(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """OpenAI style: a list of `{role, content}`; content is text or a list of `{type: text, text}` parts."""
    turns = _turns(fields["prompt"], "role", "content")
    return _prompt(fields, conversation(turns, options.cut_final_answer))


def parse_sharegpt(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """ShareGPT style: a list of `{from, value}`. These sets end in an answer: see `cut_final_answer`."""
    turns = _turns(fields["prompt"], "from", "value")
    return _prompt(fields, conversation(turns, options.cut_final_answer))


def parse_transcript(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """ "\\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nHuman: ..."; an open "Assistant:" at the end is a cue, not a turn."""
    turns = _transcript_turns(_OPEN_CUE.sub("", _raw_text(fields, "prompt")))
    return _prompt(fields, conversation(turns, options.cut_final_answer))


def parse_hh_rlhf(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """`chosen` and `rejected`: two continuations of one conversation, as transcripts or lists of messages.

    The prompt is their common prefix of whole turns, up to the last common turn of the user. Splitting
    `chosen` at its last "Assistant:" would keep turns that `rejected` never had.
    """
    chosen, rejected = (_either(fields, field) for field in ("chosen", "rejected"))
    common = []
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        common.append(left)
    while common and common[-1]["role"] != "user":
        common.pop()
    if not common:
        raise DropRow(DropReason.MALFORMED, "chosen and rejected have no turn of the user in common")
    return _prompt(fields, conversation(common))


def parse_red_team_attempts(fields: Fields, options: ParseOptions) -> ParsedPrompt:
    """hh-rlhf's red-team-attempts: the first turn of the user only.

    The later turns answer a model's harmful replies, and its authors do not mean them for training.
    """
    turns = _transcript_turns(_raw_text(fields, "prompt"))
    return _prompt(fields, conversation(turns[:1]))


def _either(fields: Fields, field: str) -> list[Message]:
    if isinstance(fields[field], list):
        return _turns(fields[field], "role", "content")
    return _transcript_turns(_raw_text(fields, field))


def _raw_text(fields: Fields, field: str) -> str:
    """The checked text of a transcript, with the blank line before its first label back in place."""
    return f"\n\n{fields.text(field)}"


def _transcript_turns(transcript: str) -> list[Message]:
    try:
        return transcript_to_messages(transcript)
    except ValueError as error:
        raise DropRow(DropReason.MALFORMED, f"not a transcript: {error}") from None


def _turns(value: Any, role_key: str, content_key: str) -> list[Message]:
    """A list of turns as `{role, content}` with our role names. Raises DropRow."""
    if value is None:
        raise DropRow(DropReason.NULL, "the list of turns is null")
    if isinstance(value, str) and value.lstrip().startswith("["):  # CSV can hold a list only as JSON text
        try:
            value = json.loads(value)
        except ValueError:
            raise DropRow(DropReason.MALFORMED, "the list of turns is not valid JSON") from None
    if not isinstance(value, list):
        raise DropRow(DropReason.NOT_TEXT, f"the turns are of type {type(value).__name__}, not a list")
    if not value:
        raise DropRow(DropReason.EMPTY, "the list of turns is empty")
    return [_turn(turn, role_key, content_key, f"turn {number}") for number, turn in enumerate(value, 1)]


def _turn(turn: Any, role_key: str, content_key: str, what: str) -> Message:
    if not isinstance(turn, Mapping) or role_key not in turn or content_key not in turn:
        raise DropRow(DropReason.MALFORMED, f"{what} is not an object with {role_key!r} and {content_key!r}")
    role = turn[role_key]
    if not isinstance(role, str) or role.lower() not in _ROLES:
        # The role itself may be text of the row, and details hold none.
        raise DropRow(DropReason.MALFORMED, f"{what} has an unknown role; known: {', '.join(_ROLES)}")
    content = turn[content_key]
    if isinstance(content, list):
        content = _joined_parts(content, what)
    # An empty turn is reported by conversation(), which knows whether it matters.
    return {"role": _ROLES[role.lower()], "content": text_of(content, f"the content of {what}", may_be_empty=True)}


def _joined_parts(parts: list[Any], what: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DropRow(DropReason.NOT_TEXT, f"{what} has a part that is not text")
        texts.append(part["text"])
    return "\n".join(texts)
