"""Runs a study's cells, each as a command of its own, on one Ray; a cell that fails is a hole, and the study goes on.

A process per cell: an engine that takes its driver down costs its cell alone, and what is finished is skipped when the
study is run again. Tested in tests/pipeline/studies/test_running.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from cai_ray.artifacts.artifact import find
from cai_ray.engines.cluster import connected
from cai_ray.pipeline.recipe import dump
from cai_ray.pipeline.run import folder_of
from cai_ray.pipeline.steps import steps
from cai_ray.pipeline.studies.study import DIRECTION, MADE, Cell, Study, cells_of

Holes = dict[tuple[str, str], str]  # (model, form) -> why there are no rows
END_S = 20.0  # that a stopped cell has to commit what it holds
LONGEST_REASON = 400
STOPPED = "stopped"


def is_done(cell: Cell) -> bool:
    """Whether every stage of the cell's run is finished."""
    run = folder_of(cell.recipe)
    return all(find(run / step.stage) is not None for step in steps(cell.recipe))


def run_study(study: Study, tell: Callable[[str], object]) -> Holes:
    """Run what is not finished; the cells that could not be. Raises Stopped, ClusterAway, ConfigError.

    `tell` gets a line as each cell begins and ends.
    """
    plans = {model: cells_of(study, model) for model in study.models}
    if all(is_done(cell) for plan in plans.values() for cell in plan):
        return {}
    holes: Holes = {}
    commands = _Commands(Path(study.output) / study.name, tell)
    with connected(study.cluster), commands.ended(), ThreadPoolExecutor(study.at_once) as pool:
        import ray

        commands.environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        futures = [pool.submit(_run_model, plan, commands, holes) for plan in plans.values()]
        try:
            wait(futures)  # a signal raises here
        except BaseException:
            commands.stop()
            raise
        for future in futures:
            future.result()
    return holes


def _run_model(plan: list[Cell], commands: _Commands, holes: Holes) -> None:
    """One model's cells in order; without a direction there is nothing to ask of the forms that need it."""
    failed = ""
    for cell in plan:
        if cell.form in MADE and failed:
            holes[cell.model, cell.form] = failed
            continue
        reason = "" if is_done(cell) else commands.run(cell)
        if cell.form == DIRECTION:
            failed = reason
        elif reason:
            holes[cell.model, cell.form] = reason


class _Commands:
    """The commands that run cells, and their end."""

    def __init__(self, folder: Path, tell: Callable[[str], object]) -> None:
        self._folder, self._tell = folder, tell
        self.environment: dict[str, str] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, cell: Cell) -> str:
        """Why it failed; "" where it did not; STOPPED where the study ended first."""
        (self._folder / "cells").mkdir(parents=True, exist_ok=True)
        file = self._folder / "cells" / f"{cell.model}-{cell.form}.yaml"
        file.write_text(dump(cell.recipe), encoding="utf-8")
        log = file.with_suffix(".log")
        with log.open("ab") as output, self._lock:
            if self._stopped:
                return STOPPED
            output.truncate(0)
            self._tell(f"{cell.model}, {cell.form}: begins")
            command = [sys.executable, "-m", "cai_ray.cli", "run", str(file)]
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **self.environment}
            )
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        if code != 0 and self._stopped:
            return STOPPED
        reason = "" if code == 0 else reason_in(log.read_text(encoding="utf-8", errors="replace"), code)
        self._tell(f"{cell.model}, {cell.form}: {f'failed: {reason}' if reason else 'done'}")
        return reason

    def stop(self) -> None:
        """SIGTERM to every command, which commits what it has."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    @contextmanager
    def ended(self) -> Iterator[None]:
        """No command outlives the block."""
        try:
            yield
        finally:
            self.stop()
            for process in list(self._running):
                try:
                    process.wait(END_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def reason_in(log: str, code: int) -> str:
    """What a failed command said last, for a hole in a table."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"exit code {code}: {(lines or ['it said nothing'])[-1]}"[:LONGEST_REASON]
