"""A run's folder on a local path, on a cluster of several nodes: all of them must see the same files there.

Tested in tests/field/test_22_local_output.py.
"""

from __future__ import annotations

import socket
import time
import uuid

from cai_ray.artifacts.storage import TEMPORARY_PREFIX, Storage
from cai_ray.errors import ConfigError

PROBE_LIMIT_S = 120.0  # a node's first worker process starts meanwhile
SEEN_LIMIT_S = 10.0
MEND = "set `output` to a folder that every node shares (NFS, Lustre, EFS) or to a URI (--set output=s3://bucket/runs)"
DRIVER = "driver"


def check_shared(run: Storage) -> None:
    """Have every node read what this driver wrote, and write what this driver must see.

    Needs a connected Ray; nothing happens on a single node or in an object store. Raises ConfigError that names the
    nodes that do not share the folder.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not run.is_local or len(nodes) < 2:
        return
    folder = f"{TEMPORARY_PREFIX}nodes-{uuid.uuid4().hex}"
    probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
    run.write(f"{folder}/{DRIVER}", b"")
    try:
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[probe.options(scheduling_strategy=there).remote(run, folder, node["NodeID"])] = node
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_LIMIT_S)
        unseen = []
        for reference in answered:
            try:
                host, reads = ray.get(reference)
            except RayError:  # the node went away, or has no room for a process: others are asked in its place
                continue
            if not reads or not _is_seen(run, f"{folder}/{asked[reference]['NodeID']}"):
                unseen.append(f"{host} ({asked[reference]['NodeManagerAddress']})")
    finally:
        run.delete_folder(folder)
    if unseen:
        raise ConfigError(
            f"output {run.shown!r} is a local folder: what {socket.gethostname()} writes there is not seen by "
            f"{', '.join(sorted(unseen))}, or the other way round; {MEND}"
        )


def _probe(run: Storage, folder: str, name: str) -> tuple[str, bool]:
    """On a node: (its host name, whether it reads and writes the driver's folder)."""
    reads = False
    try:
        reads = run.exists(f"{folder}/{DRIVER}")
        if reads:
            run.write(f"{folder}/{name}", b"")
    except OSError:
        reads = False
    return socket.gethostname(), reads


def _is_seen(run: Storage, name: str) -> bool:
    """A network file system may take a moment."""
    deadline = time.monotonic() + SEEN_LIMIT_S
    while not run.exists(name):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def check_seen(folder: Storage) -> None:
    """On a node that has joined since: that the folder which the driver made is there. Raises ConfigError."""
    if folder.is_local and not folder.exists():
        raise ConfigError(f"output: node {socket.gethostname()} does not see {folder.shown!r}; {MEND}")
