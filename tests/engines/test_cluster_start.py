"""A signal while Ray starts: what was started is ended, and the command ends as one to repeat."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray

from cai_ray import stopping
from cai_ray.engines import cluster
from cai_ray.engines.cluster import ClusterConfig, connected
from cai_ray.errors import ClusterAway, ConfigError, Stopped


def rays_handler(number: int, frame: Any) -> None:
    sys.exit(number)


def signalled(**settings: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)


def signalled_after_rays_own_handler(**settings: Any) -> None:
    signal.signal(signal.SIGTERM, rays_handler)
    signalled()


@pytest.mark.parametrize("init", [signalled, signalled_after_rays_own_handler])
def test_a_signal_while_ray_starts(init: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(Stopped, match="SIGTERM"), stopping.hearing(), connected(ClusterConfig()):
        raise AssertionError("nothing may begin")
    assert ended


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /a/very/deep/folder"), "set RAY_TMPDIR"),
        (ValueError("After taking into account object store and redis memory usage, ..."), "cluster.object_store_gib"),
    ],
)
def test_what_ray_cannot_start_with_is_one_message(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(**settings: Any) -> None:
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", cannot)
    with pytest.raises(ConfigError, match=told), connected(ClusterConfig()):
        raise AssertionError("nothing may begin")


@pytest.mark.parametrize("num_slow", [1, 2])
def test_a_start_that_is_too_slow_for_ray_is_tried_once_more(num_slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def init(**settings: Any) -> None:
        calls.append("start")
        if calls.count("start") <= num_slow:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("end"))
    monkeypatch.setattr(cluster, "_set_up_ray_data", lambda: None)
    if num_slow == 1:
        with connected(ClusterConfig()):
            assert calls == ["start", "end", "start"]
    else:
        with pytest.raises(ClusterAway, match="run this again"), connected(ClusterConfig()):
            raise AssertionError("nothing may begin")
