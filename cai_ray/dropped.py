"""Rows that leave a stage: the closed sets of reasons, and the schema they are kept in.

A dropped row was meant to pass and could not; a row that is left out is one the recipe does not ask for. They are
counted apart: no share of rows left out says that anything is wrong.

Tested in tests/test_rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pyarrow as pa

# One row that left the pipeline, dropped or left out, and why.
DROPPED = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a DropReason or a LeftOutReason
        pa.field("detail", pa.string(), nullable=False),  # for a person; never the row's own text
        pa.field("attempts", pa.int32(), nullable=False),  # >= 1
    ]
)


class DropReason(StrEnum):
    """Why a row was dropped. A closed set, so that reports and dashboards can count on it.

    Attributes:
        sentence: the reason in words, for a person.
    """

    sentence: str

    def __new__(cls, reason: str, sentence: str = "") -> DropReason:
        member = str.__new__(cls, reason)
        member._value_, member.sentence = reason, sentence
        return member

    # the input
    MALFORMED = "malformed", "the record is not what its layout promises"
    EMPTY = "empty", "no text"
    NULL = "null", "null where text should be"
    NOT_TEXT = "not_text", "something else than text"
    NOT_UTF8 = "not_utf8", "bytes that are not UTF-8"
    ENDS_IN_ASSISTANT = "ends_in_assistant", "the conversation ends in an answer"
    DUPLICATE_ID = "duplicate_id", "an explicit id again"
    DUPLICATE = "duplicate", "the same conversation again"
    NEAR_DUPLICATE = "near_duplicate", "nearly the same conversation again"
    TOO_LONG = "too_long", "does not fit the context with all rounds"
    # the engine
    TIMEOUT = "timeout", "the row's time limit"
    ENGINE_KILLED = "engine_killed", "the row, alone, kills the engine"
    ENGINE_HUNG = "engine_hung", "the row, alone, hangs the engine"
    REQUEST_REJECTED = "request_rejected", "the engine or endpoint refuses the request"
    ENDPOINT_ERROR = "endpoint_error", "the endpoint's retries were used up"
    ROW_ERROR = "row_error", "the row's own code raised an error"  # `detail` names it
    # the answer
    EMPTY_RESPONSE = "empty_response", "the model answered nothing"
    TRUNCATED = "truncated", "the answer was cut off at max_tokens"
    UNPARSABLE = "unparsable", "the answer could not be read"
    # pairs and labels
    IDENTICAL = "identical", "both answers of a pair are the same text"
    TIE = "tie", "neither answer is favoured"
    UNJUDGED = "unjudged", "nobody has said which answer is better"
    NO_LOGPROBS = "no_logprobs", "no log-probabilities came back"
    # a quality gate set to "drop"
    NO_OP = "no_op", "the revision changed nothing"
    REPEATS_CRITIQUE = "repeats_critique", "the revision repeats its critique"
    BOILERPLATE = "boilerplate", "mostly stock phrases"
    NOT_IMPROVED = "not_improved", "the revision scores no better"
    META_COMMENTARY = "meta_commentary", "the answer speaks of its own revision"
    INCOHERENT = "incoherent", "words that the model itself finds unlikely"


class LeftOutReason(StrEnum):
    """Why the recipe leaves a row out. A closed set, apart from `DropReason`: no code is in both.

    Attributes:
        sentence: the reason in words, for a person.
        setting: what to change in the recipe for such rows to pass.
    """

    sentence: str
    setting: str

    def __new__(cls, reason: str, sentence: str = "", setting: str = "") -> LeftOutReason:
        member = str.__new__(cls, reason)
        member._value_, member.sentence, member.setting = reason, sentence, setting
        return member

    LIMIT = "limit", "more than the recipe's limit", "limit (of expand: num_new)"
    WEIGHT = "weight", "outside its source's share of the mixture", "weight"
    CATEGORY = "category", "a category that the recipe does not take", "include_categories, exclude_categories"
    SUBSET = "subset", "a part of the set that the recipe does not take", "functional_categories"
    KIND = "kind", "a kind of prompt that the stage is not asked to take", "kinds"
    SPLIT = "split", "of a split that the stage is not asked to take", "split"
    SIMILAR = "similar", "nearly the same conversation as an earlier one", "near_duplicate_jaccard"
    LENGTH = "length", "shorter or longer than the recipe takes", "min_words, max_words"
    SEED = "seed", "a seed, of which only new prompts are wanted", "keep_seeds"
    FLAG = "flag", "bears a flag that the recipe leaves out", "exclude_flags"
    HELD_OUT = "held_out", "its prompt is held out for tests", "split, test_fraction"


class DropRow(Exception):
    """Raised by a row function: this row ends here, with a reason; all others go on."""

    def __init__(self, reason: DropReason | LeftOutReason, detail: str, attempts: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[DropRow], tuple[DropReason | LeftOutReason, str, int]]:
        return DropRow, (self.reason, self.detail, self.attempts)  # Ray pickles what a worker raises


def dropped_row(row_id: str, stage: str, drop: DropRow) -> dict[str, Any]:
    """A row of the DROPPED schema."""
    return {
        "row_id": row_id,
        "stage": stage,
        "reason": str(drop.reason),
        "detail": drop.detail,
        "attempts": drop.attempts,
    }


def drop_of(row: Mapping[str, Any]) -> DropRow:
    """Why a row of the DROPPED schema was dropped; the inverse of `dropped_row`, for who drops what hangs on it."""
    return DropRow(reason_of(row["reason"]), row["detail"], row["attempts"])


def reason_of(code: str) -> DropReason | LeftOutReason:
    """The reason of this code. Raises ValueError where there is none."""
    return LeftOutReason(code) if is_left_out(code) else DropReason(code)


def is_left_out(code: str) -> bool:
    """Whether a row with this reason was left out, and not dropped."""
    return code in _LEFT_OUT


_LEFT_OUT = frozenset(map(str, LeftOutReason))
