"""What a call costs on any machine, however slow or busy: CPU time of this thread, in units of a fixed loop of plain
Python that takes about a millisecond on a machine of 2024.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def _seconds(call: Callable[[], object]) -> float:
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


def _loop() -> None:
    total = 0
    for k in range(25_000):
        total += k


def loops(call: Callable[[], object], repeats: int = 1) -> float:
    """Loops that `call()` is worth: the cheapest of `repeats`, by the cheapest of as many loops and two more."""
    loop = min(_seconds(_loop) for _ in range(repeats + 2))
    return min(_seconds(call) for _ in range(repeats)) / loop
