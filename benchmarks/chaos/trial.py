"""One run with a fault in it: the commands that were started, what was asked so far, and when the work went on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.counting import Outcome, Seen, lost_and_doubled, num_repeated
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.counters import REQUESTS
from cai_ray.artifacts.storage import Storage
from tests.runs import cli, start, wait_for

LIMIT_S = 600.0
UNIT = "requests"


@dataclass
class Trial:
    """A recipe's run in `recipe.parent`/run, and the same run without a fault.

    Attributes:
        base: the run without a fault, on this machine's disk.
        seen: every request so far.
        output: where the run is, where it is not beside the recipe.
    """

    recipe: Path
    base: Path
    seen: Seen
    arguments: tuple[str, ...] = ("--until", "revise")
    output: str | None = None
    codes: list[int] = field(default_factory=list)
    _at: float = 0.0
    _before: int = 0
    _repeated: int = 0

    @property
    def log(self) -> Path:
        return self.recipe.parent / "log.txt"

    def start(self) -> subprocess.Popen[bytes]:
        return start(cli(self.recipe, *self.arguments), self.log)

    def ended(self, driver: subprocess.Popen[bytes], expected: int = 0) -> None:
        """Wait for the end of a command. Raises AssertionError for another exit code."""
        self.codes.append(driver.wait(LIMIT_S))
        assert self.codes[-1] == expected, f"{self.codes}, not {expected}: {self.log.read_text()[-3000:]}"

    def asked(self, num: int, driver: subprocess.Popen[bytes]) -> None:
        """Wait until so many requests have been asked, with the command still at work."""
        wait_for(lambda: len(self.seen()) >= num or driver.poll() is not None, LIMIT_S, f"{num} requests")
        assert driver.poll() is None, f"the run ended before the fault: {self.log.read_text()[-3000:]}"

    def fault(self) -> None:
        """It is injected now."""
        keys = self.seen()
        self._at, self._before, self._repeated = time.monotonic(), len(keys), num_repeated(keys)

    def asks_again(self) -> float:
        """Seconds from the fault until a request that was under way is asked again."""
        return self.since(lambda: num_repeated(self.seen()) > self._repeated)

    def goes_on(self) -> float:
        """Seconds from the fault until the next request, asked by whoever works after it."""
        before = len(self.seen())
        return self.since(lambda: len(self.seen()) > before)

    def since(self, happened: Callable[[], object]) -> float:
        wait_for(happened, LIMIT_S, f"the work goes on; see {self.log}")
        return time.monotonic() - self._at

    def outcome(self, recovery_s: float, stage: str = "revise") -> Outcome:
        """What is left, once all commands have ended."""
        lost, doubled = lost_and_doubled(self.run, Storage(str(self.base)))
        asked = Artifact(Storage(str(self.base / stage))).manifest.counters[REQUESTS]
        repeated = num_repeated(self.seen())
        return Outcome(lost, doubled, repeated, asked, UNIT, round(recovery_s, 1), tuple(self.codes))

    @property
    def run(self) -> Storage:
        return Storage(self.output or str(self.recipe.parent)) / "run"


@contextmanager
def ending(driver: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever happens in the block, nothing of the command outlives it."""
    started: list[psutil.Process] = []
    try:
        yield driver
    finally:
        with suppress(psutil.Error):
            started = psutil.Process(driver.pid).children(recursive=True)
        if driver.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
        for process in started:
            with suppress(psutil.Error):
                process.kill()


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """The command alone, and wait until what it started has noticed: what stays would disturb the next command."""
    started = [p for p in psutil.Process(driver.pid).children(recursive=True) if not p.name().endswith("Agent")]
    driver.kill()
    driver.wait()
    psutil.wait_procs(started, timeout=60)
