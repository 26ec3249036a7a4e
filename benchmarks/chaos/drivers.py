"""Faults of the driver, of its disk and of its object store, with a server of scripted answers for an engine."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos.counting import Outcome, asked_key
from benchmarks.chaos.trial import LIMIT_S, Trial, ending, kill_driver
from cai_ray.exits import EXIT_RETRYABLE
from tests import stores
from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import FakeServer, serving
from tests.runs import cli, start

NUM_PROMPTS, DELAY_S = 60, 0.4
BEFORE = 13  # requests before the fault
SMALL_DISK = 4  # MB: what Ray's scratch is not on, and the run's files fill


def base_run(folder: Path, num_prompts: int = NUM_PROMPTS) -> Path:
    """The run without a fault; made once."""
    here = folder / f"base-{num_prompts}"
    if not (here / "run/revise/manifest.json").exists():
        with serving() as server:
            recipe = endpoint_recipe(here, server, num_prompts)
            with ending(start(cli(recipe, "--until", "revise"), here / "log.txt")) as driver:
                assert driver.wait(LIMIT_S) == 0, (here / "log.txt").read_text()[-3000:]
    return here / "run"


@contextmanager
def prepared(folder: Path, **changes: Any) -> Iterator[tuple[Trial, FakeServer]]:
    """A trial whose server answers in the block."""
    base = base_run(folder)
    here = folder / f"driver-{time.time_ns()}"
    with serving(delay_s=DELAY_S) as server:
        recipe = endpoint_recipe(here, server, NUM_PROMPTS, **changes)
        seen = lambda: [asked_key(body) for body in [*server.bodies]]  # noqa: E731
        yield Trial(recipe, base, seen, output=changes.get("output")), server


def _stopped(stop: Callable[[Trial, subprocess.Popen[bytes]], None], folder: Path) -> Outcome:
    """The driver ends before its work does; then the same command again."""
    with prepared(folder) as (trial, _):
        with ending(trial.start()) as driver:
            trial.asked(BEFORE, driver)
            trial.fault()
            stop(trial, driver)
        with ending(trial.start()) as driver:
            recovery_s = trial.goes_on()
            trial.ended(driver)
        return trial.outcome(recovery_s)


def _kill(trial: Trial, driver: subprocess.Popen[bytes]) -> None:
    kill_driver(driver)
    trial.codes.append(driver.returncode)


def _terminate(trial: Trial, driver: subprocess.Popen[bytes]) -> None:
    driver.send_signal(signal.SIGTERM)
    trial.ended(driver, EXIT_RETRYABLE)


def two_at_once(folder: Path) -> Outcome:
    """The second driver is told who works there and ends; recovery: how soon it knows."""
    with prepared(folder) as (trial, _), ending(trial.start()) as first:
        trial.asked(BEFORE, first)
        trial.fault()
        with ending(trial.start()) as second:
            trial.ended(second, EXIT_RETRYABLE)
        recovery_s = trial.since(lambda: True)
        trial.ended(first)
        return trial.outcome(recovery_s)


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}m", "tmpfs", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def output_full(folder: Path) -> Outcome:
    """The disk of `output` is filled by something else: 75; emptied again, the same command goes on."""
    with small_disk(folder / f"disk-{time.time_ns()}") as disk, prepared(folder, output=str(disk)) as (trial, _):
        with ending(trial.start()) as driver:
            trial.asked(BEFORE, driver)
            trial.fault()
            ballast = disk / "ballast"
            _fill(ballast)
            trial.ended(driver, EXIT_RETRYABLE)
        ballast.unlink()
        with ending(trial.start()) as driver:
            recovery_s = trial.goes_on()
            trial.ended(driver)
        return trial.outcome(recovery_s)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass


def store_failing(share: float, folder: Path) -> Outcome:
    """That share of the calls to S3 fails, from the first to the last; recovery: how much longer the run takes."""
    usual_s = _usual(folder)  # before: all stores of one process are one
    with stores.s3() as faults, prepared(folder, output=faults.uri) as (trial, _):
        faults.share = share
        trial.fault()
        with ending(trial.start()) as driver:
            trial.ended(driver)
        took_s = trial.since(lambda: True)
        faults.share = 0.0
        assert faults.num_failed > 0
        return trial.outcome(max(0.0, took_s - usual_s))


def _usual(folder: Path) -> float:
    """Seconds of the run on an object store where no call fails; measured once."""
    took = folder / "store-seconds"
    if not took.exists():
        with stores.s3() as faults, prepared(folder, output=faults.uri) as (trial, _):
            began = time.monotonic()
            with ending(trial.start()) as driver:
                trial.ended(driver)
            took.write_text(str(time.monotonic() - began))
    return float(took.read_text())


FAULTS: dict[str, Callable[[Path], Outcome]] = {
    "the driver killed, the command given again": partial(_stopped, _kill),
    "SIGTERM to the driver, the command given again": partial(_stopped, _terminate),
    "two drivers at once": two_at_once,
    "the disk of the output full": output_full,
    "5% of the calls to S3 fail": partial(store_failing, 0.05),
    "40% of the calls to S3 fail": partial(store_failing, 0.4),
}
