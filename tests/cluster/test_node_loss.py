"""A worker node is lost in mid-run: every row comes out once."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.runs import check_adds_up, records, requests, start, wait_for, write_jsonl, write_recipe

pytestmark = pytest.mark.slow
NUM_PROMPTS = 160
NODE_CPUS = 3  # logical: room for one engine, which takes 2, so that each node has one


def test_every_row_comes_out_once_when_a_node_is_lost(micro_model: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", requests(NUM_PROMPTS))
    scaling = {"min_engines": 2, "max_engines": 2, "cpus_per_engine": 2, "rows_per_task": 4, "rows_per_part": 8}
    engine = {"rows_in_flight": 4}  # 10 s of work or so: long enough to lose a node in
    recipe = write_recipe(
        tmp_path, micro_model, path, models={"policy": {"engine": engine}}, revise={"scaling": scaling}
    )
    # A process of its own, because this one may be connected to another Ray.
    log = tmp_path / "log.txt"
    driver = start([sys.executable, __file__, str(recipe)], log)
    assert driver.wait(240) == 0, log.read_text()[-4000:]
    artifact = check_adds_up(recipe)
    assert artifact.manifest.rows_out == NUM_PROMPTS
    assert "node lost" in log.read_text()


def main(recipe: Path) -> None:
    """Run `recipe` with slow scripted answers on two nodes; lose one after the first part, and get another."""
    import ray
    from ray.cluster_utils import Cluster

    from tests import faults
    from tests.runs import run

    # Nodes come from another thread, where Ray cannot set the handlers of an end at exit.
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": NODE_CPUS,
            "object_store_memory": 2**28,
            "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
        },
        shutdown_at_exit=False,
    )
    try:
        worker = cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=2**28)
        ray.init(address=cluster.address, log_to_driver=False)

        def replace_the_worker() -> None:
            wait_for(lambda: records(recipe), 120, "the first part")
            [raylet] = worker.all_processes["raylet"]
            os.kill(raylet.process.pid, signal.SIGKILL)
            print("node lost", flush=True)
            cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=2**28)

        with ThreadPoolExecutor(1) as threads, pytest.MonkeyPatch.context() as monkeypatch:
            replaced = threads.submit(replace_the_worker)
            faults.use_script(monkeypatch, faults.Slow(0.1))
            run(recipe)
            replaced.result()
        assert sum(node["Alive"] for node in ray.nodes()) == 2, "the head and the node that came"
        ray.shutdown()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
