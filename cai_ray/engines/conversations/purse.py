"""What an engine's conversations spend, and whether another may begin: the stage's allowance, shared by its engines.

Each engine counts its own requests as they are answered and tells the others through Ray's key-value store about once
a second. A conversation that has begun goes on to its end, so a limit is passed by what is under way and no more.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cai_ray.artifacts.allowance import Allowance, Spent, sum_of
from cai_ray.config import Price
from cai_ray.engines.conversations.asking import Usage

KEY = "cai_ray:spent:"  # in Ray's key-value store, before the attempt's key and the engine's


class Purse:
    """One engine's. `key`: of the attempt, the same for all its engines. A copy in another process is another's."""

    def __init__(self, allowance: Allowance | None, price: Price | None, key: str) -> None:
        self._allowance, self._price, self._key = allowance, price, key
        self._prefix, self._name = f"{KEY}{key}:", uuid.uuid4().hex
        self._closed = self._others = Spent()
        self._open: list[Usage] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Purse, (self._allowance, self._price, self._key)

    def cost(self, usage: Usage) -> int | None:
        """Microdollars; None without a price."""
        if self._price is None:
            return None
        return self._price.microdollars(usage.num_prompt_tokens, usage.num_cached_tokens, usage.num_output_tokens)

    @contextmanager
    def conversation(self, usage: Usage) -> Iterator[None]:
        """Count what goes to these books, while they are open and after."""
        self._open.append(usage)
        try:
            yield
        finally:
            self._open = [one for one in self._open if one is not usage]
            self._closed = self._closed.plus(self._of(usage))

    def why_empty(self) -> str | None:
        """Why no conversation may begin; None: one may."""
        if self._allowance is None:
            return None
        return self._allowance.reached(self._own().plus(self._others))

    def exchange(self) -> None:
        """Tell the attempt's other engines, and hear of them. Nothing without a limit, or outside Ray."""
        import ray
        from ray.experimental import internal_kv

        if self._allowance is None or not ray.is_initialized():
            return
        mine = f"{self._prefix}{self._name}".encode()
        internal_kv._internal_kv_put(mine, json.dumps(self._own()).encode(), overwrite=True)
        keys = [key for key in internal_kv._internal_kv_list(self._prefix) if key != mine]
        told = [json.loads(internal_kv._internal_kv_get(key)) for key in keys]
        self._others = sum_of(Spent(*one) for one in told)

    def _own(self) -> Spent:
        return sum_of([self._closed, *map(self._of, self._open)])

    def _of(self, usage: Usage) -> Spent:
        return Spent(usage.num_prompt_tokens + usage.num_output_tokens, self.cost(usage) or 0)
