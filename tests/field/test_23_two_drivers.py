"""Case 23: two runs in one folder at once: the second is told who works there, exit code 75; a dead one is taken over.

A driver that was only paused ends by itself, with 75, and nothing is in the folder twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cai_ray.exits import EXIT_RETRYABLE
from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import serving
from tests.runs import cli, stage, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_PROMPTS = 60
UNTIL = ("--until", "revise")


def leases(recipe: Path) -> list[Path]:
    return list((recipe.parent / "run").glob("lease-*.json"))


def ids_in_folder(recipe: Path) -> list[str]:
    """What a reader of part-*.parquet finds."""
    files = (recipe.parent / "run" / "revise").glob("part-*.parquet")
    return [row_id for file in files for row_id in pq.read_table(file)["prompt_id"].to_pylist()]


def check_whole(recipe: Path) -> None:
    assert stage(recipe, "revise").manifest.rows_out == NUM_PROMPTS
    ids = ids_in_folder(recipe)
    assert len(ids) == len(set(ids)) == NUM_PROMPTS
    assert not leases(recipe)


def test_the_second_is_told_who_works_there(tmp_path: Path) -> None:
    with serving(delay_s=0.5) as server:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS)
        first = start(cli(recipe, *UNTIL), tmp_path / "log")
        wait_for(lambda: server.num_answered >= 4 or first.poll() is not None, 120, "four answers")
        second = command(recipe, *UNTIL)
        assert second.returncode == EXIT_RETRYABLE, second.stderr
        told = second.stderr.splitlines()[-1]
        assert f"pid {first.pid}, since 20" in told and "run the same command again" in told, told
        server.delay_s = 0.0
        assert first.wait(120) == 0, (tmp_path / "log").read_text()
        assert server.num_asked == NUM_PROMPTS
    check_whole(recipe)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_driver_is_taken_over_at_once(number: signal.Signals, tmp_path: Path) -> None:
    with serving(delay_s=0.5) as server:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS)
        first = start(cli(recipe, *UNTIL), tmp_path / "log")
        wait_for(lambda: server.num_answered >= 9 or first.poll() is not None, 120, "nine answers")
        first.send_signal(number)
        first.wait(60)
        assert len(leases(recipe)) == (1 if number == signal.SIGKILL else 0)
        server.delay_s = 0.0
        assert command(recipe, *UNTIL).returncode == 0
    check_whole(recipe)


def impatient(recipe: Path) -> list[str]:
    """The command, with a lease that is dead after three seconds."""
    code = (
        "from cai_ray.artifacts import lease; lease.BEAT_S, lease.DEAD_AFTER_S = 0.3, 3.0\n"
        "from cai_ray.cli import main; main()"
    )
    return [sys.executable, "-c", code, "run", str(recipe), *UNTIL]


@pytest.mark.long
def test_a_paused_driver_commits_nothing_more(tmp_path: Path) -> None:
    with serving(delay_s=0.5) as server:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS)
        first = start(impatient(recipe), tmp_path / "log")
        wait_for(lambda: server.num_answered >= 9 or first.poll() is not None, 120, "nine answers")
        os.kill(first.pid, signal.SIGSTOP)
        server.delay_s = 0.0
        second = subprocess.run(impatient(recipe), capture_output=True, text=True, timeout=150)
        assert second.returncode == 0, second.stderr
        check_whole(recipe)
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60) == EXIT_RETRYABLE, (tmp_path / "log").read_text()
        said = (tmp_path / "log").read_text()
        assert "silent for too long" in said and "Traceback" not in said, said
    check_whole(recipe)
