"""Nodes that come for a stage and go after it, by Ray's own autoscalers (v1 and v2) over fake nodes of logical GPUs.

Ray 2.60's package lacks the file that its fake provider reads (`example.yaml`); it is laid over the package in a mount
namespace, where nobody else sees it. Ray's test cluster begins and ends with `ray stop`, hence the other namespaces.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from tests import hosts
from tests.cluster.test_scheduling import where
from tests.runs import requests, run, wait_for, write_jsonl, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.hosts]
NUM_PROMPTS = 24
MOST_NODES, GPUS = 2, 4  # of a node; an engine takes all of them
LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
EXAMPLE = {
    "cluster_name": "fake",
    "max_workers": 8,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {},
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{name: [] for name in LISTS},
}
ENTER = """
ip link set lo up
mount -t tmpfs tmpfs /dev/shm && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
mkdir /dev/shm/over /dev/shm/work && cp "$EXAMPLE" /dev/shm/over/example.yaml
mount -t overlay overlay -o lowerdir="$LACKING",upperdir=/dev/shm/over,workdir=/dev/shm/work "$LACKING"
exec "$@"
"""


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_pool_goes_from_no_node_to_the_most_and_back(version: str, micro_model: Path, tmp_path: Path) -> None:
    if (reason := hosts.why_not()) is not None:
        pytest.skip(reason)
    import ray

    example = tmp_path / "example.yaml"
    example.write_text(json.dumps(EXAMPLE))
    lacking = Path(ray.__file__).resolve().parent / "autoscaler/_private/fake_multi_node"
    environment = {
        **os.environ,
        "EXAMPLE": str(example),
        "LACKING": str(lacking),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    inside = [sys.executable, __file__, version, str(micro_model), str(tmp_path)]
    apart = ("unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child")
    done = subprocess.run(
        [*apart, "sh", "-ec", ENTER, "sh", *inside],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


async def slowly(row_id: str, messages: Sequence[Message], seed: int) -> str:
    await asyncio.sleep(0.5)
    return where(row_id, messages, seed)


def main(version: str, model: Path, folder: Path) -> None:
    import ray
    from ray.cluster_utils import AutoscalingCluster

    def node_type(market: str) -> dict[str, Any]:
        resources = {"CPU": 2, "GPU": GPUS, "object_store_memory": 80_000_000}
        labels = {"market": market}
        return {
            "resources": resources,
            "labels": labels,
            "node_config": {},
            "min_workers": 0,
            "max_workers": MOST_NODES,
        }

    cluster = AutoscalingCluster(
        head_resources={"CPU": 4, "object_store_memory": 200_000_000},
        worker_node_types={market: node_type(market) for market in ("on-demand", "spot")},
        autoscaler_v2=version == "v2",
        idle_timeout_minutes=0.1,
        max_workers=2 * MOST_NODES,
    )
    cluster.start()
    ray.init("auto", log_to_driver=False)

    def gpus() -> float:
        return float(ray.cluster_resources().get("GPU", 0))

    seen: set[float] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            seen.add(gpus())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    answers = converse(folder, model)
    ended.set()
    looking.join()
    assert {(market, num) for market, num, _ in answers} == {("spot", str(GPUS))}, answers
    assert len({engine for _, _, engine in answers}) == MOST_NODES, "each engine fills a node"
    assert min(seen) == 0 and max(seen) == GPUS * MOST_NODES, seen
    began = time.monotonic()
    wait_for(lambda: gpus() == 0, 90, "the nodes are given back while the driver still runs", poll_s=0.5)
    print(f"{version}: 0 -> {MOST_NODES} -> 0, back {time.monotonic() - began:.0f} s after the stage", flush=True)


def converse(folder: Path, model: Path) -> list[tuple[str, ...]]:
    """Where each answer of a stage of two engines came from, which takes all GPUs of a spot node each."""
    from tests import faults

    scaling = {"min_engines": MOST_NODES, "max_engines": MOST_NODES, "rows_per_task": 1, "labels": {"market": "spot"}}
    recipe = write_recipe(
        folder,
        model,
        write_jsonl(folder / "prompts.jsonl", requests(NUM_PROMPTS)),
        cluster={"address": "auto", "num_gpus": GPUS * MOST_NODES},
        models={"policy": {"engine": {"tensor_parallel_size": GPUS, "rows_in_flight": 1}}},
        revise={"num_revisions": 0, "scaling": scaling},
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults.use_script(monkeypatch, slowly)
        return [tuple(row["initial_response"].split()) for row in run(recipe).rows()]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
