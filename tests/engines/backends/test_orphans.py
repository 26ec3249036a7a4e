"""A process that ignores everything else still goes when its parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from cai_ray.engines.backends.orphans import end_with_parent

LIMIT_S = 20
_SPAWN = multiprocessing.get_context("spawn")


def _sleep_for_ever(to_test: Connection) -> None:
    end_with_parent(grace_s=0.1)
    to_test.send(os.getpid())
    while True:
        time.sleep(60)


def _parent(to_test: Connection, method: str) -> None:
    multiprocessing.get_context(method).Process(target=_sleep_for_ever, args=(to_test,)).start()
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_child_ends_when_its_parent_is_killed(method: str) -> None:
    here, there = _SPAWN.Pipe()
    parent = _SPAWN.Process(target=_parent, args=(there, method))
    parent.start()
    assert here.poll(LIMIT_S)
    child = psutil.Process(here.recv())
    time.sleep(1)
    assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE, "it ended while its parent lived"
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _, alive = psutil.wait_procs([child], timeout=LIMIT_S)
    assert not alive or alive[0].status() == psutil.STATUS_ZOMBIE


def test_a_process_of_nobody_is_left_alone() -> None:
    end_with_parent(grace_s=0)  # pytest was not started by multiprocessing
    time.sleep(0.1)
