"""One text is on one side of the split, in however many sources it is.

A source's own split goes by the prompt's id, which holds the source's name; alone it would put the same text into
train by one source and into test by another, and what is learned would be tested on itself.

Tested in tests/field/test_16_splits.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from cai_ray.artifacts.derived import Outcome
from cai_ray.row_ids import text_key

TEXTS_SHARED = "texts_shared"  # counter: texts in more than one source
PROMPTS_MOVED = "prompts_moved"  # counter: prompts whose side is not the one their own source gave them


class Sides:
    """Where each text stands: a held-out one in test, any other where its first prompt stands.

    Memory: 9 bytes per text and what a dict needs for it.
    """

    def __init__(self, held_out: Iterable[bytes]) -> None:
        self._held_out = frozenset(held_out)
        self._first: dict[bytes, tuple[str, str]] = {}  # text -> side, source; the strings are shared
        self._shared: set[bytes] = set()
        self.num_moved = 0

    @property
    def num_shared(self) -> int:
        return len(self._shared)

    def settle(self, row: dict[str, Any], end: Outcome) -> Outcome:
        """The prompt's end, on its text's side; `row`: the prompt, even where it is left out."""
        text = text_key(row["messages"])
        own = "test" if text in self._held_out else row["split"]
        side, source = self._first.setdefault(text, (own, row["source"]))
        counters: Counter[str] = Counter()
        if source != row["source"] and text not in self._shared:
            self._shared.add(text)
            counters[TEXTS_SHARED] += 1
        if end.drop is None and side != row["split"]:
            self.num_moved += 1
            counters[PROMPTS_MOVED] += 1
            end = end._replace(end={**end.row, "split": side})
        return end._replace(counters=Counter(end.counters) + counters) if counters else end
