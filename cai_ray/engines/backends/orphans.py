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
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_watch, args=(grace_s,), name="end_with_parent", daemon=True).start()


def _watch(grace_s: float) -> None:
    parent, forked_by = multiprocessing.parent_process(), os.getppid()
    # A fork server (engine_process.py) lives as long as its forks do: there only the parent's pipe tells of its end.
    # That pipe may be open in a sibling where the parent itself forked.
    while parent is not None and parent.is_alive() and os.getppid() == forked_by:
        time.sleep(_POLL_S)
    time.sleep(grace_s)
    os._exit(1)
