"""Scripts for ScriptedBackend that choose an option; imported by name in Ray's workers."""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow

REFUSED = "the mailbox and the statue"


def takes(letter: str, row_id: str, messages: Sequence[Message], seed: int) -> str:
    """The same option of every item; an item with REFUSED in it is refused."""
    if any(REFUSED in message["content"] for message in messages):
        raise DropRow(DropReason.REQUEST_REJECTED, "scripted")
    return letter


def must_not_be_asked(row_id: str, messages: Sequence[Message], seed: int) -> str:
    raise AssertionError("asked again")
