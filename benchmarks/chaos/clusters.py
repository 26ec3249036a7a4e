"""Faults of nodes, of the network between them and of who schedules them, with a server of scripted answers.

Nodes are Ray's own test cluster where one is lost, else hosts in namespaces of this machine (tests/hosts.py), which
need root. What Ray decides by waiting, it waits for as long as it does by default.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chaos.counting import Outcome, asked_key, asked_lines
from benchmarks.chaos.drivers import base_run
from benchmarks.chaos.trial import LIMIT_S, Trial, ending
from cai_ray.exits import EXIT_RETRYABLE
from tests.cluster.slurm_nodes import slurm
from tests.cluster.test_slurm import NUM_PROMPTS as SLURM_PROMPTS
from tests.cluster.test_slurm import Site
from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import FakeServer, serving
from tests.hosts import GCS_PORT, Hosts, hosts

NUM_PROMPTS = 200
BEFORE = 13  # requests before the fault
NODE_CPUS = 4  # logical: an engine takes 2.5, so that each node has one
TWO_ENGINES = {"min_engines": 2, "max_engines": 2, "cpus_per_engine": 2.5, "rows_per_task": 4, "rows_per_part": 4}
SCALED: dict[str, Any] = {"revise": {"scaling": TWO_ENGINES}}
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
SCRATCH_MB = 300
CLI = ("python", "-m", "cai_ray.cli")


def node_replaced(folder: Path) -> Outcome:
    """A node's raylet is killed with all that runs there, and another node joins at once."""
    from ray.cluster_utils import Cluster

    base = base_run(folder, NUM_PROMPTS)
    node = {"num_cpus": NODE_CPUS, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": HEALTH}, shutdown_at_exit=False)
    try:
        worker = cluster.add_node(**node)
        with serving(delay_s=1.0) as server:
            where = {"cluster": {"address": cluster.address}}
            recipe = endpoint_recipe(folder / f"node-{time.time_ns()}", server, NUM_PROMPTS, **SCALED, **where)
            trial = Trial(recipe, base, lambda: [asked_key(body) for body in [*server.bodies]])
            with ending(trial.start()) as driver:
                trial.asked(BEFORE, driver)
                trial.fault()
                [raylet] = worker.all_processes["raylet"]
                os.kill(raylet.process.pid, signal.SIGKILL)
                cluster.add_node(**node)
                recovery_s = trial.asks_again()
                trial.ended(driver)
            return trial.outcome(recovery_s)
    finally:
        cluster.shutdown()


@contextmanager
def site(
    folder: Path, delay_s: float = 0.6, prepare: Callable[[Hosts], None] = lambda up: None
) -> Iterator[tuple[Hosts, Trial]]:
    """A head, two workers with an engine each, and a server beside the head; the recipe's run is not begun."""
    base = base_run(folder, NUM_PROMPTS)
    here = folder / f"hosts-{time.time_ns()}"
    with hosts(here / "hosts", "head", "one", "two") as up:
        address, log = up.address("head"), here / "asked"
        recipe = endpoint_recipe(here, FakeServer(url=f"http://{address}:{up.port}/v1"), NUM_PROMPTS, **SCALED)
        up.start("head", "python", "-m", "tests.field.server", address, str(up.port), str(delay_s), log=log)
        prepare(up)
        up.start_head()
        for name in ("one", "two"):
            up.join(name, num_cpus=NODE_CPUS)
        up.keys["RAY_ADDRESS"] = f"{address}:{GCS_PORT}"
        yield up, Trial(recipe, base, lambda: asked_lines(log))


def _begin(up: Hosts, trial: Trial) -> Any:
    driver = up.start("head", *CLI, "run", str(trial.recipe), *trial.arguments, log=trial.log)
    trial.asked(BEFORE, driver)
    return driver


def partition(folder: Path) -> Outcome:
    """A node cannot be reached until Ray has given it up; then it can, and is started again."""
    with site(folder, delay_s=3.0) as (up, trial):
        driver = _begin(up, trial)
        trial.fault()
        up.cut("one")
        recovery_s = trial.asks_again()
        up.heal("one")
        time.sleep(5)  # its raylet hears that it was given up, and ends
        up.join("one", num_cpus=NODE_CPUS)
        trial.ended(driver)
        return trial.outcome(recovery_s)


def node_disk_full(folder: Path) -> Outcome:
    """The disk of Ray's own files on one node is filled; recovery: until the next request."""
    scratch = "/tmp/ray"

    def small_disk(up: Hosts) -> None:
        mounted = up.run("one", "mount", "-t", "tmpfs", "-o", f"size={SCRATCH_MB}m", "tmpfs", scratch)
        assert mounted.returncode == 0, mounted.stderr

    with site(folder, prepare=small_disk) as (up, trial):
        driver = _begin(up, trial)
        trial.fault()
        up.run("one", "dd", "if=/dev/zero", f"of={scratch}/ballast", "bs=1M")
        assert " 100% " in up.run("one", "df", scratch).stdout
        recovery_s = trial.goes_on()
        trial.ended(driver)
        return trial.outcome(recovery_s)


def job_killed(folder: Path) -> Outcome:
    """The driver of a submitted job is killed on the head; the same `cai-ray submit` goes on."""
    with site(folder) as (up, trial):
        submit = (*CLI, "submit", str(trial.recipe), "--address", up.dashboard, *trial.arguments)
        first = up.start("one", *submit, log=trial.log)
        trial.asked(BEFORE, first)
        [lease] = (trial.recipe.parent / "run").glob("lease-*.json")
        trial.fault()
        up.run("head", "kill", "-9", str(json.loads(lease.read_text())["pid"]))
        trial.ended(first, EXIT_RETRYABLE)
        second = up.start("two", *submit, log=trial.log)
        recovery_s = trial.goes_on()
        trial.ended(second)
        return trial.outcome(recovery_s)


def requeued(folder: Path) -> Outcome:
    """`scontrol requeue` in the middle of a job of two nodes; Slurm's own wait of two minutes is cut short."""
    base = base_run(folder, SLURM_PROMPTS)
    here = folder / f"slurm-{time.time_ns()}"
    with slurm(here / "slurm", "ha", "hb") as queue:
        work = Site(queue, here)
        trial = Trial(work.recipe, base, lambda: asked_lines(work.asked))
        work.serve(delay_s=1.5)
        number = work.submit(requeues=0)
        work.wait_for_rows(8)
        trial.fault()
        queue.command("scontrol", "requeue", number)
        queue.start_now(number)
        recovery_s = trial.goes_on()
        ended = queue.wait(number, "COMPLETED", "FAILED", limit_s=LIMIT_S)
        trial.codes.append(int(ended["ExitCode"].partition(":")[0]))
        assert ended["JobState"] == "COMPLETED", work.said(number)
        return trial.outcome(recovery_s)


FAULTS: dict[str, Callable[[Path], Outcome]] = {
    "a node lost and another added": node_replaced,
    "a node cut off, given up, back again": partition,
    "the disk of one node full": node_disk_full,
    "the driver of a job killed, submitted again": job_killed,
    "a Slurm job requeued": requeued,
}
