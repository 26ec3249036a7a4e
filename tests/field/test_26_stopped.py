"""Case 26: SIGTERM and Ctrl-C to the driver: what is done is committed, exit code 75, one line, no process left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from cai_ray import stopping
from cai_ray.errors import Stopped
from cai_ray.exits import EXIT_RETRYABLE
from tests.field.endpoint_runs import command, committed, endpoint_recipe
from tests.field.server import serving
from tests.runs import cli, stage, start, wait_for

LIMIT_S = 20


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_keeps_what_is_done(number: signal.Signals, tmp_path: Path) -> None:
    with serving(delay_s=0.5) as server:
        recipe = endpoint_recipe(tmp_path, server, 60)
        driver = start(cli(recipe, "--until", "revise"), tmp_path / "log")
        wait_for(lambda: server.num_answered >= 9 or driver.poll() is not None, 120, "nine answers")
        started = psutil.Process(driver.pid).children(recursive=True)
        at = time.monotonic()
        driver.send_signal(number)
        assert driver.wait(60) == EXIT_RETRYABLE, (tmp_path / "log").read_text()
        assert time.monotonic() - at < LIMIT_S
        said = (tmp_path / "log").read_text()
        assert f"stopped by {number.name}" in said
        assert not [word for word in ("Traceback", "*** SIG", "PC: @") if word in said], said
        num_rows, num_dropped = committed(recipe)
        assert num_dropped == 0 and 8 <= num_rows < 60
        _, alive = psutil.wait_procs(started, timeout=10)
        assert not alive, [process.cmdline() for process in alive]
        server.delay_s, server.num_asked = 0.0, 0
        assert command(recipe, "--until", "revise").returncode == 0
        assert server.num_asked == 60 - num_rows
    assert stage(recipe, "revise").manifest.rows_out == 60


def test_a_signal_raises_at_once_where_nothing_drains() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"), stopping.hearing():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_rows_under_way_are_ended_in_order() -> None:
    asked = threading.Event()
    with pytest.raises(Stopped, match="SIGTERM"), stopping.hearing(), stopping.draining(asked.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(5), "the block goes on and may end by itself"


@pytest.mark.parametrize("by_hand", [True, False])
def test_an_end_that_takes_too_long_is_cut(by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "DRAIN_LIMIT_S", 60.0 if by_hand else 0.05)
    with pytest.raises(Stopped, match="SIGTERM"), stopping.hearing(), stopping.draining(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        if by_hand:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("not cut")


def test_the_signal_keeps_its_name_where_the_rows_end_first() -> None:
    with pytest.raises(Stopped, match="SIGTERM"), stopping.hearing(), stopping.draining(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        raise Stopped("")
