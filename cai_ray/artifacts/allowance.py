"""What was spent, and what may still be: tokens, money and time.

Tested in tests/artifacts/test_spending.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from cai_ray.artifacts.storage import Storage


class Spent(NamedTuple):
    """By requests and by the clock, over all attempts."""

    tokens: int = 0  # prompt and answer
    microdollars: int = 0
    seconds: float = 0.0

    def plus(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.microdollars + other.microdollars, self.seconds + other.seconds)

    @property
    def dollars(self) -> float:
        return self.microdollars / 1e6


def sum_of(parts: Iterable[Spent]) -> Spent:
    """All of it."""
    total = Spent()
    for one in parts:
        total = total.plus(one)
    return total


@dataclass(frozen=True)
class Allowance:
    """What a stage may still spend, all its engines and pieces together; it travels to them.

    Attributes:
        folder: the stage's; `before`: what it had spent when this was measured out.
        tokens, microdollars: from then on; None: any number. `until`: seconds since the epoch.
        limits: of each, in a person's words: "limits.tokens=1000".
    """

    folder: Storage
    before: Spent
    tokens: int | None
    microdollars: int | None
    until: float | None
    limits: dict[str, str]

    def reached(self, since: Spent) -> str | None:
        """Why nothing more may be begun, after so much was spent since then; None: something may."""
        if self.tokens is not None and since.tokens >= self.tokens:
            return self._told("tokens")
        if self.microdollars is not None and since.microdollars >= self.microdollars:
            return self._told("dollars")
        if self.until is not None and time.time() >= self.until:
            return self._told("hours")
        return None

    def less(self, since: Spent) -> Allowance:
        """What is left of it."""
        return replace(
            self,
            tokens=None if self.tokens is None else self.tokens - since.tokens,
            microdollars=None if self.microdollars is None else self.microdollars - since.microdollars,
        )

    def _told(self, kind: str) -> str:
        return limit_reached(self.limits[kind])


def limit_reached(limit: str) -> str:
    """For a person. `limit`: "limits.tokens=1000"."""
    return f"{limit} is reached: what is done is kept. Raise it and run the same command again to go on"
