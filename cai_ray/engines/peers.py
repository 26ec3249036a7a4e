"""How the engines of a pool hear of each other: which are idle, which rows one asks of another, and their ends.

Through Ray's key-value store, about once a second. Nothing is lost where a message is: a row always stays with the
engine that it came to as well (conversations/stragglers.py).
"""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

KEY = "cai_ray:rows:"


class Box(Protocol):
    """A key-value store."""

    def put(self, key: str, value: bytes) -> None: ...

    def take(self, prefix: str, is_kept: bool) -> dict[str, bytes]:
        """What lies under keys with this prefix, without the prefix; it is taken out unless `is_kept`."""

    def delete(self, prefix: str) -> None:
        """All keys that begin so."""


class RayBox:
    """Ray's own store; this process is connected."""

    def put(self, key: str, value: bytes) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(key.encode(), value, overwrite=True)

    def take(self, prefix: str, is_kept: bool) -> dict[str, bytes]:
        from ray.experimental import internal_kv

        found: dict[str, bytes] = {}
        for key in internal_kv._internal_kv_list(prefix.encode()):
            value = internal_kv._internal_kv_get(key)
            if value is not None:
                found[key.decode().removeprefix(prefix)] = value
            if not is_kept:
                internal_kv._internal_kv_del(key)
        return found

    def delete(self, prefix: str) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(prefix.encode(), del_by_prefix=True)


class Peers:
    """One engine's view of a pool. `key`: the pool's. A copy that travels to another process has a name of its own."""

    def __init__(self, key: str, box: Box | None = None) -> None:
        self.key, self._box, self.name = key, box or RayBox(), uuid.uuid4().hex
        self._prefix = f"{KEY}{key}:"

    def __reduce__(self) -> tuple[Any, ...]:
        return Peers, (self.key, self._box)

    def say_idle(self, longest_s: float | None) -> None:
        """That this one has nothing to do, and how long its rows took at most; None: it has something to do."""
        key = f"{self._prefix}idle:{self.name}"
        if longest_s is None:
            self._box.delete(key)
        else:
            self._box.put(key, repr(longest_s).encode())

    def idle(self) -> dict[str, float]:
        """Others that are idle -> how long their rows took at most, seconds."""
        found = self._box.take(f"{self._prefix}idle:", is_kept=True)
        return {name: float(value) for name, value in found.items() if name != self.name}

    def ask(self, name: str, row_id: str, row: dict[str, Any]) -> None:
        """Another one, for a row."""
        self._box.put(f"{self._prefix}ask:{name}:{row_id}", pickle.dumps((self.name, row)))

    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Rows that are asked of this one, each with who asks."""
        return [pickle.loads(value) for value in self._box.take(f"{self._prefix}ask:{self.name}:", False).values()]

    def answer(self, name: str, row_id: str, end: dict[str, Any]) -> None:
        """Tell who asked how the row ended."""
        self._box.put(f"{self._prefix}end:{name}:{row_id}", pickle.dumps(end))

    def answers(self) -> dict[str, dict[str, Any]]:
        """Row -> its end, of those that this one asked for and that are new."""
        found = self._box.take(f"{self._prefix}end:{self.name}:", False)
        return {row_id: pickle.loads(value) for row_id, value in found.items()}

    def forget(self) -> None:
        """All that was said in this pool."""
        self._box.delete(self._prefix)


@contextmanager
def forgetting(pools: Sequence[Peers]) -> Iterator[None]:
    """Nothing of the rows stays in the store after this block."""
    try:
        yield
    finally:
        for peers in pools:
            peers.forget()
