"""No process of an engine outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

GRACE_S = 5.0  # a process that ends by itself runs its own clean-up
_POLL_S = 0.5


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """End this process `grace_s` after its parent, whatever it is doing; nothing in a process without one.

    vLLM's workers wait for the end of a pipe and then clean up, which at times waits for a peer that is gone (seen
    once in some dozen kills): such a worker would keep its memory and cores from the next run. A thread looks at the
    parent instead of `prctl(PR_SET_PDEATHSIG)`, which goes by the parent's thread and fires when that one ends.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    threading.Thread(target=_watch, args=(parent.pid, grace_s), name="end_with_parent", daemon=True).start()


def _watch(parent: int, grace_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    time.sleep(grace_s)
    os._exit(1)
