"""What a node says of itself. Runs there, in a process of Ray's, or here where there is no cluster.

Tested in tests/doctor/test_examination.py.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import psutil

from cai_ray.artifacts.artifact import versions
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.doctor.facts import Dashboard, Gpu, Node

ASK_LIMIT_S = 10.0
DRIVER = "driver"


class Asked(Config):
    """What is to be tried on each node."""

    folder: str | None = None  # of the run, for probes
    hub: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()  # names of environment variables


class Examiner:
    """One per node; an actor, so that its second answer takes no longer than the way there and back."""

    def examine(self, asked: Asked, name: str, sockets: tuple[str, ...] = ()) -> Node:
        """Facts of this node, which is called `name` among the probes."""
        socket_path = max(sockets, key=len, default="")
        temp = tempfile.gettempdir()
        disk = shutil.disk_usage(os.path.dirname(socket_path) if socket_path else temp)
        return Node(
            host=socket.gethostname(),
            address=name,
            versions=versions(),
            gpus=gpus(),
            disk_free=disk.free,
            disk_total=disk.total,
            shm_total=shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ray_socket=socket_path,
            temp=temp,
            storage_error=None if asked.folder is None else storage_error(Storage(asked.folder), name),
            hub={hub_id: hub_error(hub_id) for hub_id in asked.hub},
            keys={key: bool(os.environ.get(key)) for key in asked.keys},
        )

    def now(self) -> float:
        return time.time()

    def dashboard(self, address: str) -> Dashboard | None:
        """Of a head that is asked on its own node, with no token."""
        port = int(address.rpartition(":")[2])
        status = status_without_token(f"http://{address}/api/jobs/")
        if status is None:
            return None
        return Dashboard(address=f"http://{address}", bound_to=bound_to(port), status_without_token=status)


def gpus() -> tuple[Gpu, ...]:
    """By NVIDIA's own tool, because Ray hides GPUs from who asked for none."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=ASK_LIMIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    parts = (line.rpartition(",") for line in said.splitlines() if "," in line)
    return tuple(Gpu(name=name.strip(), memory=int(mib) * 2**20) for name, _, mib in parts if mib.strip().isdigit())


def storage_error(folder: Storage, name: str) -> str | None:
    """Why this node does not write, read and list the folder; None where it does."""
    try:
        folder.write(name, b"x")
        if folder.read(name) != b"x":
            return "reads something else than it wrote"
        if not {name, DRIVER} <= set(folder.names()):
            return "does not see what the driver wrote"
    except Exception as error:  # pyarrow's are many, and all say what is wrong
        return first_line(error)
    return None


def hub_error(hub_id: str) -> str:
    """Why a model's configuration cannot be had; empty where it can."""
    if os.path.isdir(hub_id):
        return ""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(hub_id, "config.json", etag_timeout=ASK_LIMIT_S)
    except Exception as error:  # of the network, the hub, its cache
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def bound_to(port: int) -> tuple[str, ...]:
    """The addresses on which somebody listens at a port of this machine."""
    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.AccessDenied, OSError):
        return ()
    return tuple(sorted({c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == port}))


def status_without_token(url: str) -> int | None:
    """The HTTP status that a stranger gets; None where nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ASK_LIMIT_S) as reply:
            status: int = reply.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
