"""The layout of multiple-choice files: a question, its right and wrong options, and the same choice as two answers.

It is that of the 438 comparisons for helpfulness, honesty and harmlessness of Bai et al. 2022 (section 2), whose
file is read as it is published. `prompt` ends where an option follows; the options carry their leading space; the two
texts are transcripts, which become messages here and differ in the last answer only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_ray.chat import Message, transcript_to_messages
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.files import BadRecord, read_records
from cai_ray.seeding import stable_id

# Punctuation around an option's own words: " (A)" is " (" + "A" + ")".
_OPTION = re.compile(r"(?P<lead>\W*)(?P<core>\w(?:.*\w)?)(?P<tail>\W*)", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """One question with its options, and the same choice as two answers to one conversation.

    Attributes:
        item_id: hash of the question and its options.
        prompt: the question as the file has it, white space included; an option follows directly.
        corrects, incorrects: options as the file has them, such as " (A)"; at least one each, all different.
        conversation: what the two answers reply to; ends in role "user".
        text_correct, text_incorrect: the answers' texts, stripped.
        cluster: hash of the conversation; items of one cluster are not independent.
        category: the record's own, None when it has none.
    """

    item_id: str
    prompt: str
    corrects: tuple[str, ...]
    incorrects: tuple[str, ...]
    conversation: tuple[Message, ...]
    text_correct: str
    text_incorrect: str
    cluster: str
    category: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Correct ones first."""
        return (*self.corrects, *self.incorrects)

    @property
    def first_is_correct(self) -> bool:
        """Whether the option that comes first by its letter is correct."""
        return min(self.options) in self.corrects


def parse_item(record: Mapping[str, Any]) -> Item:
    """A record `{prompt, corrects, incorrects, text_correct, text_incorrect, category?}` as an Item.

    The two texts are transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ...") that differ in the last answer only.
    Raises DropRow(malformed) with the field and the rule.
    """
    prompt = _text(record, "prompt")
    corrects, incorrects = _options(record, "corrects"), _options(record, "incorrects")
    if len(set(corrects + incorrects)) < len(corrects + incorrects):
        raise _malformed("an option is given twice")
    conversation, text_correct = _answered(record, "text_correct")
    other, text_incorrect = _answered(record, "text_incorrect")
    if conversation != other:
        raise _malformed("text_correct and text_incorrect do not answer the same conversation")
    category = record.get("category")
    return Item(
        item_id=stable_id("multiple choice", prompt, list(corrects), list(incorrects)),
        prompt=prompt,
        corrects=corrects,
        incorrects=incorrects,
        conversation=tuple(conversation),
        text_correct=text_correct,
        text_incorrect=text_incorrect,
        cluster=stable_id("conversation", [[m["role"], m["content"]] for m in conversation]),
        category=None if category is None else str(category),
    )


def _malformed(detail: str) -> DropRow:
    return DropRow(DropReason.MALFORMED, detail)


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise _malformed(f"{field!r} must be text and not blank")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _malformed(f"{field!r} holds a lone surrogate, which no model can read") from None
    return value


def _options(record: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = record.get(field)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise _malformed(f"{field!r} must be a list of at least one option")
    return tuple(value)


def _answered(record: Mapping[str, Any], field: str) -> tuple[list[Message], str]:
    """The conversation and its last answer."""
    try:
        turns = transcript_to_messages(_text(record, field))
    except ValueError as error:
        raise _malformed(f"{field!r} is no transcript: {error}") from None
    if len(turns) < 2 or turns[-1]["role"] != "assistant" or turns[-2]["role"] != "user":
        raise _malformed(f"{field!r} must end in an answer of the assistant to the human")
    if not turns[-1]["content"]:
        raise _malformed(f"{field!r} ends in an empty answer")
    return turns[:-1], turns[-1]["content"]


def deciding_parts(options: Sequence[str]) -> tuple[str, list[str]]:
    """What all options begin with, and the part of each that tells it from the others.

    [" (A)", " (B)"] -> (" (", ["A", "B"]): after the shared beginning, one token decides, and the punctuation
    that follows is the same for all. White space stays with the deciding part, since tokens carry the space
    before a word: [" yes", " no"] -> ("", [" yes", " no"]).

    Raises DropRow(malformed) when options differ in their punctuation.
    """
    found = [_OPTION.fullmatch(option) for option in options]
    matches = [match for match in found if match is not None]
    if len(matches) < len(found) or len({(match["lead"], match["tail"]) for match in matches}) != 1:
        raise _malformed("options must be words or letters with the same punctuation around each, such as ' (A)'")
    lead = matches[0]["lead"].rstrip()
    space = matches[0]["lead"][len(lead) :]
    return lead, [space + match["core"] for match in matches]


def read_items(path: str, limit: int | None = None) -> tuple[list[Item], list[tuple[int, DropRow]]]:
    """The items among the first `limit` records of a file, and (record number, reason) of each record that is none.

    `path` as in `read_records`. Raises ConfigError when there is no such file, or no item in it.
    """
    items: dict[str, Item] = {}
    drops: list[tuple[int, DropRow]] = []
    for number, record in read_records(path):
        if number == limit:
            break
        try:
            if isinstance(record, BadRecord):
                raise DropRow(record.reason, record.detail)
            item = parse_item(record)
            if item.item_id in items:
                raise DropRow(DropReason.DUPLICATE, "an earlier record is the same question")
        except DropRow as drop:
            drops.append((number, drop))
        else:
            items[item.item_id] = item
    if not items:
        first, reason = drops[0]
        raise ConfigError(
            f"{path} holds no multiple-choice item; record {first} is {reason}. "
            "Records need prompt, corrects, incorrects, text_correct and text_incorrect"
        )
    return list(items.values()), drops
