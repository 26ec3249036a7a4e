"""Requests that wait together are computed together, and one that fails costs no other its answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cai_ray.dropped import DropRow
from cai_ray.engines.backends.in_process.together import Together

Calls = list[tuple[str, list[int]]]


def doubling(calls: Calls, fails: int | None = None) -> Together[str, int, int]:
    def compute(key: str, requests: list[int]) -> list[int]:
        calls.append((key, requests))
        if fails in requests:
            raise ValueError(f"{fails} is no number")
        return [2 * one for one in requests]

    return Together(compute, lambda key, longest: 3 if key == "wide" else 1)


async def answers(queue: Together[str, int, int], asked: list[tuple[str, int]]) -> list[Any]:
    return await asyncio.gather(*(queue.ask(key, one, one) for key, one in asked), return_exceptions=True)


def test_requests_of_a_key_go_together_the_longest_first() -> None:
    calls: Calls = []
    found = asyncio.run(answers(doubling(calls), [("wide", k) for k in (1, 4, 2, 3)] + [("narrow", 7), ("narrow", 9)]))
    assert found == [2, 8, 4, 6, 14, 18]
    assert calls == [("wide", [2, 3, 4]), ("wide", [1]), ("narrow", [9]), ("narrow", [7])]


def test_a_request_that_fails_is_dropped_alone() -> None:
    calls: Calls = []
    found = asyncio.run(answers(doubling(calls, fails=2), [("wide", k) for k in (1, 2, 3)]))
    assert (found[0], found[2]) == (2, 6) and isinstance(found[1], DropRow)
    assert "2 is no number" in str(found[1]) and sorted(calls[0][1]) == [1, 2, 3]


def test_a_request_that_nobody_waits_for_any_more_disturbs_nothing() -> None:
    async def with_one_gone() -> int:
        queue = doubling([])
        gone, kept = queue.ask("wide", 1, 1), queue.ask("wide", 2, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await kept

    assert asyncio.run(with_one_gone()) == 4
