"""clusters/slurm.sbatch on a real Slurm of two nodes: the recipe runs, exit codes come through, a requeue resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm_nodes import SCRATCH, Slurm, slurm
from tests.field.endpoint_runs import committed, endpoint_recipe
from tests.field.server import FakeServer
from tests.hosts import ROOT
from tests.runs import check_adds_up, wait_for

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]
PORT, NUM_PROMPTS = 8399, 64
SERVE = """
import os, sys, threading
open(sys.argv[4], "w").write(str(os.getpid()))
from tests.field.server import serving
with serving(sys.argv[1], int(sys.argv[2]), is_told=True, delay_s=float(sys.argv[3])):
    threading.Event().wait()
"""
OPTIONS = {"RAY_START_OPTIONS": "--num-cpus=4 --object-store-memory=100000000", "CAI_RAY_SCRATCH": str(SCRATCH)}


class Site:
    """The queue, a recipe that asks a server on the first node, and what is known of a run."""

    def __init__(self, queue: Slurm, folder: Path) -> None:
        self.queue, self.folder = queue, folder
        self.address = queue.up.address(queue.up.names[0])
        self.asked = folder / "asked"
        self.recipe = endpoint_recipe(folder / "work", FakeServer(url=f"http://{self.address}:{PORT}/v1"), NUM_PROMPTS)

    def serve(self, delay_s: float) -> None:
        pid = str(self.folder / "server-pid")
        python = ("python", "-c", SERVE, self.address, str(PORT), str(delay_s), pid)
        self.queue.up.start(self.queue.up.names[0], *python, log=self.asked)

    def end_server(self) -> None:
        self.queue.up.run(self.queue.up.names[0], "kill", "-9", (self.folder / "server-pid").read_text())

    def submit(self, requeues: int) -> str:
        cwd = self.recipe.parent
        script = ROOT / "clusters/slurm.sbatch"
        arguments = (str(self.recipe), "--until", "revise")
        return self.queue.submit(
            script, *arguments, cwd=cwd, CAI_RAY_BIN=str(ROOT / ".venv/bin"), CAI_RAY_REQUEUES=str(requeues), **OPTIONS
        )

    def wait_for_rows(self, num_rows: int) -> None:
        wait_for(lambda: committed(self.recipe)[0] >= num_rows, 300, f"{num_rows} rows", 0.1)

    def said(self, number: str) -> str:
        return (self.recipe.parent / f"cai-ray-{number}.out").read_text()

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.recipe.parent / "run/revise/manifest.json").read_text())
        return found


def test_the_recipe_runs_codes_come_through_and_a_requeue_resumes(tmp_path: Path) -> None:
    with slurm(tmp_path / "slurm", "ha", "hb") as queue:
        site = Site(queue, tmp_path)

        # No server is there: 75, and Slurm keeps it.
        number = site.submit(requeues=0)
        ended = queue.wait(number, "FAILED", "COMPLETED")
        assert (ended["ExitCode"], ended["Restarts"]) == ("75:0", "0"), site.said(number)
        assert "2 nodes, head ha (192.0.2.1)" in site.said(number)

        # The server goes away in the middle: the job requeues itself, and goes on once the server is back.
        site.serve(delay_s=1.5)
        number = site.submit(requeues=1)
        site.wait_for_rows(8)
        site.end_server()
        queue.start_now(number)
        site.serve(delay_s=1.5)
        site.wait_for_rows(committed(site.recipe)[0] + 8)

        # Requeued from outside, as after preemption.
        queue.command("scontrol", "requeue", number)
        queue.start_now(number)
        ended = queue.wait(number, "COMPLETED", "FAILED", limit_s=400)
        assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "2"), site.said(number)
        assert (site.manifest()["rows_out"], site.manifest()["rows_dropped"]) == (NUM_PROMPTS, {})
        check_adds_up(site.recipe)
