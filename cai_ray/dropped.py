"""Rows that leave a stage: the closed set of reasons, and the schema they are kept in.

Tested in tests/test_rows.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pyarrow as pa

# One row that left the pipeline, and why.
DROPPED = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a DropReason
        pa.field("detail", pa.string(), nullable=False),  # for a person; never the row's own text
        pa.field("attempts", pa.int32(), nullable=False),  # >= 1
    ]
)


class DropReason(StrEnum):
    """Why a row was dropped. A closed set, so that reports and dashboards can count on it."""

    # the input
    MALFORMED = "malformed"  # the record is not what its layout promises
    EMPTY = "empty"
    NULL = "null"
    NOT_TEXT = "not_text"
    NOT_UTF8 = "not_utf8"
    ENDS_IN_ASSISTANT = "ends_in_assistant"
    DUPLICATE_ID = "duplicate_id"  # the record repeats an explicit id
    DUPLICATE = "duplicate"  # the same normalised conversation again
    NEAR_DUPLICATE = "near_duplicate"
    FILTERED = "filtered"  # left out by the recipe's own filter
    TOO_LONG = "too_long"  # does not fit the context with the growth of all rounds
    # the engine
    TIMEOUT = "timeout"  # the row's time limit
    ENGINE_KILLED = "engine_killed"  # the row, alone, kills the engine
    ENGINE_HUNG = "engine_hung"  # the row, alone, hangs the engine
    REQUEST_REJECTED = "request_rejected"  # the engine or endpoint refuses the request itself
    ENDPOINT_ERROR = "endpoint_error"  # retries used up
    ROW_ERROR = "row_error"  # the row's own code raised; the detail names the error
    # the answer
    EMPTY_RESPONSE = "empty_response"
    TRUNCATED = "truncated"
    UNPARSABLE = "unparsable"
    # pairs and labels
    IDENTICAL = "identical"  # the two answers of a pair are the same text
    TIE = "tie"  # the feedback model favours neither answer
    NO_LOGPROBS = "no_logprobs"  # the options' log-probabilities did not come back
    # a quality gate set to "drop"
    NO_OP = "no_op"
    BOILERPLATE = "boilerplate"
    NOT_IMPROVED = "not_improved"
    META_COMMENTARY = "meta_commentary"


class DropRow(Exception):
    """Raised by a row function: this row ends here, with a reason; all others go on."""

    def __init__(self, reason: DropReason, detail: str, attempts: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[DropRow], tuple[DropReason, str, int]]:
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


# Why rows go, in the words of rows.DropReason.
REASONS = {
    "malformed": "the record is not what its layout promises",
    "empty": "no text",
    "null": "null where text should be",
    "not_text": "something else than text",
    "not_utf8": "bytes that are not UTF-8",
    "ends_in_assistant": "the conversation ends in an answer",
    "duplicate_id": "an explicit id again",
    "duplicate": "the same conversation again",
    "near_duplicate": "nearly the same conversation again",
    "filtered": "left out by the recipe's own filter",
    "too_long": "does not fit the context with all rounds",
    "timeout": "the row's time limit",
    "engine_killed": "the row, alone, kills the engine",
    "engine_hung": "the row, alone, hangs the engine",
    "request_rejected": "the engine or endpoint refuses the request",
    "endpoint_error": "the endpoint's retries were used up",
    "row_error": "the row's own code raised an error",
    "empty_response": "the model answered nothing",
    "truncated": "the answer was cut off at max_tokens",
    "unparsable": "the answer could not be read",
    "identical": "both answers of a pair are the same text",
    "tie": "neither answer is favoured",
    "no_logprobs": "no log-probabilities came back",
    "no_op": "the revision changed nothing",
    "boilerplate": "mostly stock phrases",
    "not_improved": "the revision scores no better",
    "meta_commentary": "the answer speaks of its own revision",
}
