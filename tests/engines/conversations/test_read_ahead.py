"""Reading waits for the engines, goes on when they do, and ends when the run does."""

from __future__ import annotations

import threading
import time

import pytest
from ray.experimental import internal_kv

from cai_ray.engines.conversations import read_ahead
from cai_ray.engines.conversations.read_ahead import ReadAhead


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    held: dict[str, bytes] = {}
    monkeypatch.setattr(internal_kv, "_internal_kv_get", held.get)
    monkeypatch.setattr(internal_kv, "_internal_kv_put", lambda key, value, overwrite: held.update({key: value}))
    monkeypatch.setattr(read_ahead, "POLL_S", 0.01)
    return held


def test_what_is_near_is_read_at_once() -> None:
    ahead = ReadAhead(100)
    assert ahead.wait(0) and ahead.wait(100), "nothing is done yet"
    ahead.tell(50)
    assert ahead.wait(150)


def test_what_is_far_waits_until_enough_is_done() -> None:
    ahead, other = ReadAhead(100), ReadAhead(100)
    began = time.monotonic()
    other.tell(10_000)
    threading.Timer(0.2, ahead.tell, (51,)).start()
    assert ahead.wait(151) and time.monotonic() - began >= 0.2


def test_a_wait_ends_with_the_run_and_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = ReadAhead(100)
    threading.Timer(0.1, ahead.end).start()
    assert not ahead.wait(10_000)
    monkeypatch.setattr(read_ahead, "MOST_WAIT_S", 0.05)
    ahead.tell(0)
    assert ahead.wait(10_000)
    monkeypatch.setattr(read_ahead, "is_asked_to_stop", lambda: True)
    assert not ahead.wait(0)
