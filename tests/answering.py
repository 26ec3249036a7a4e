"""Scripts of engines that answer and judge in set ways; here, because Ray's workers must be able to import them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cai_ray.chat import Message
from cai_ray.seeding import stable_id


def answer_by_seed(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """Another answer for every row and seed."""
    return stable_id("answer", row_id, seed)


def always_the_same(row_id: str, messages: Sequence[Message], seed: int) -> str:
    return "always this"


def fate(row_id: str) -> int:
    """0, 1 or 2: what `sleepy_twins` does with a prompt, whose id is hexadecimal."""
    return int(row_id[:8], 16) % 3


async def sleepy_twins(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """By fate: never an answer, the same one each time, or another each time."""
    if fate(row_id) == 0:
        await asyncio.sleep(3600)
    return "the same" if fate(row_id) == 1 else answer_by_seed(row_id, messages, seed)


def undecided(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """A judge who takes the first answer of some pairs whatever it is, and neither answer of the others."""
    return "A" if int(row_id[:8], 16) % 2 else "neither"
