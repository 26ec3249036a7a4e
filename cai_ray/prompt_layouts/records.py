"""One record of a prompt set: what it is parsed into, and the checks every layout shares.

A value that is not what its layout promises ends the record with the exact `DropReason`, never the file.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow

Record = dict[str, Any]  # column -> value
Kind = Literal["red_team", "helpful"]
_INVISIBLE = " \t\r\n\u00a0\u200b\u200c\u200d\u2060\ufeff"


class BadRecord(NamedTuple):
    """A record that could not be read."""

    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """What one record says, before the stage adds its source.

    Attributes:
        messages: >= 1, ends in role "user"; contents are NFC and stripped, neighbours differ in role.
        category: None when the set names none.
        record_id: the set's own id for the record, None when it has none.
        kind: what the set says about the prompt, None when it does not.
    """

    messages: list[Message]
    category: str | None = None
    record_id: str | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """What a recipe may ask of the layouts.

    Attributes:
        cut_final_answer: a conversation that ends in an assistant turn loses it, instead of being dropped.
        functional_categories: the HarmBench behaviours to keep, of "standard", "contextual", "copyright".
    """

    cut_final_answer: bool = False
    functional_categories: tuple[str, ...] = ("standard",)


@dataclass(frozen=True, slots=True)
class Fields:
    """A record seen through its column mapping: `fields["prompt"]` is the value of the mapped column."""

    record: Mapping[str, Any]
    columns: Mapping[str, str | None]  # field -> column; None: the set has no such column

    def __getitem__(self, field: str) -> Any:
        """The value. Raises DropRow(malformed) when this record lacks the column that the set has."""
        column = self.columns.get(field)
        if column is None or column not in self.record:
            raise DropRow(DropReason.MALFORMED, f"the record has no column {column or field!r}")
        return self.record[column]

    def get(self, field: str) -> Any:
        column = self.columns.get(field)
        return None if column is None else self.record.get(column)

    def text(self, field: str) -> str:
        """A required text, NFC and stripped. Raises DropRow, see `text_of`."""
        return text_of(self[field], self.columns.get(field) or field)

    def label(self, field: str) -> str | None:
        """An optional short text such as a category or an id; None when absent or blank.

        Numbers become text. A dict of flags (BeaverTails) becomes the names that are set, joined by ",".
        """
        value = self.get(field)
        if isinstance(value, Mapping):
            value = [name for name, is_set in value.items() if is_set is True]
        if isinstance(value, list | tuple):
            value = ",".join(str(entry) for entry in value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        return text_of(str(value), field, may_be_empty=True) or None


def text_of(value: Any, what: str, may_be_empty: bool = False) -> str:
    """`value` as NFC text with LF line ends and without surrounding white space.

    Raises DropRow: null (None, NaN), not_text (a number, a list, ...), not_utf8 (undecodable bytes, or
    a lone surrogate, which no UTF-8 file can hold), empty (nothing visible).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DropRow(DropReason.NULL, f"{what} is null")
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DropRow(DropReason.NOT_UTF8, f"{what} is not UTF-8 from byte {error.start}") from None
    if not isinstance(value, str):
        raise DropRow(DropReason.NOT_TEXT, f"{what} is of type {type(value).__name__}, not text")
    if not value.isascii():
        if not is_utf8(value):
            raise DropRow(DropReason.NOT_UTF8, f"{what} holds a lone surrogate or undecodable bytes")
        value = unicodedata.normalize("NFC", value)
    value = value.replace("\r\n", "\n")  # transcripts tell their turns by "\n\n"
    if not may_be_empty and not value.strip(_INVISIBLE):
        raise DropRow(DropReason.EMPTY, f"{what} is empty")
    return str(value.strip())


def is_utf8(text: str) -> bool:
    """Whether `text` can be written as UTF-8: false of lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def conversation(turns: Sequence[Message], cut_final_answer: bool = False) -> list[Message]:
    """Check `turns` and make them a prompt: optional system message, then user and assistant in turn, user last.

    Two turns of one speaker in a row are one turn written in two pieces, and are joined by a blank line:
    chat templates refuse or distort anything else. Contents must be NFC and stripped already.

    Raises DropRow: malformed (no turn, a late system message, an assistant turn first), empty (a turn
    without text), ends_in_assistant (unless `cut_final_answer`).
    """
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        role, content = turn["role"], turn["content"]
        if role == "system" and index:
            raise DropRow(DropReason.MALFORMED, f"turn {index + 1} is a system message; only the first may be")
        if not content and role != "system":
            raise DropRow(DropReason.EMPTY, f"turn {index + 1} of {len(turns)} ({role}) is empty")
        if messages and messages[-1]["role"] == role:
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{content}"}
        elif content:  # an empty system message says nothing
            messages.append({"role": role, "content": content})
    spoken = [message for message in messages if message["role"] != "system"]
    if not spoken:
        raise DropRow(DropReason.MALFORMED, "the conversation has no turn of the user")
    if spoken[0]["role"] != "user":
        raise DropRow(DropReason.MALFORMED, "the conversation starts with the assistant")
    if messages[-1]["role"] == "assistant":
        if not cut_final_answer:
            raise DropRow(DropReason.ENDS_IN_ASSISTANT, f"the last of {len(messages)} turns is the assistant's")
        messages.pop()
    return messages
