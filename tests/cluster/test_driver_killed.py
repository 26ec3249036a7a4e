"""The real command, killed with SIGKILL three times and run again: every row once, nothing made twice (G1-G3)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.runs import (
    check_adds_up,
    cli,
    engine,
    num_rows,
    records,
    requests,
    start,
    wait_for,
    write_jsonl,
    write_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
NUM_PROMPTS = 96
NUM_KILLS = 3
RUN_LIMIT_S = 400
SURVIVAL_LIMIT_S = 60


def descendants(pid: int) -> list[psutil.Process]:
    """All that a run started, but for Ray's two small agents: they notice by time-out that their node is gone."""
    return [child for child in psutil.Process(pid).children(recursive=True) if not child.name().endswith("Agent")]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_the_end(processes: list[psutil.Process]) -> None:
    """An engine that outlived its driver would keep the memory and the cores that the next run needs."""
    deadline = time.monotonic() + SURVIVAL_LIMIT_S
    while alive := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < deadline, f"still alive: {alive}"
        time.sleep(0.2)


def run_to_a_new_part(recipe: Path, num_before: int, log: Path) -> subprocess.Popen[bytes]:
    driver = start(cli(recipe), log)
    wait_for(lambda: len(records(recipe)) > num_before or driver.poll() is not None, RUN_LIMIT_S, "a new part")
    return driver


def test_a_driver_killed_three_times_goes_on_where_it_stopped(micro_model: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", requests(NUM_PROMPTS))
    recipe = write_recipe(tmp_path, micro_model, path, models=engine(rows_in_flight=2))
    log = tmp_path / "log.txt"
    committed = records(recipe)
    for kill in range(1, NUM_KILLS + 1):
        driver = run_to_a_new_part(recipe, len(committed), log)
        assert driver.poll() is None, f"the run ended before kill {kill}:\n{log.read_text()[-3000:]}"
        children = descendants(driver.pid)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        wait_for_the_end(children)
        before, committed = committed, records(recipe)
        assert before.items() <= committed.items(), "a committed part was lost or made again"
        assert len(committed) > len(before)
    assert num_rows(committed) < NUM_PROMPTS, "no work was left for the last run"

    driver = start(cli(recipe), log)
    assert driver.wait(RUN_LIMIT_S) == 0, log.read_text()[-3000:]
    artifact = check_adds_up(recipe)
    manifest = artifact.manifest
    assert manifest.rows_out == NUM_PROMPTS
    assert manifest.attempts == NUM_KILLS + 1
    # The manifest's sums are of the parts that count: each of them was made once, by one of the four runs.
    assert manifest.counters["num_requests"] == NUM_PROMPTS * 5
    hashes = {file.name: file.sha256 for file in manifest.files}
    for record in committed.values():
        assert hashes[record["rows"]["name"]] == record["rows"]["sha256"]
