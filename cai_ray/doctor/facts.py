"""What is known of a cluster before it is judged. Sizes in bytes, times in seconds.

Tested in tests/doctor/checks/test_judgements.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from cai_ray.config import Config

GIB = 2**30


class Gpu(Config):
    """One GPU of a node."""

    name: str
    memory: int


class Node(Config):
    """What one node says of itself."""

    host: str
    address: str
    versions: dict[str, str] = Field(default_factory=dict)  # python, cai_ray and the engines that are installed
    gpus: tuple[Gpu, ...] = ()
    disk_free: int = 0  # where Ray keeps its session and spills to
    disk_total: int = 1
    shm_total: int = 0
    object_store: int = 0
    open_files: int = 0  # most that a process there may have, as Ray's workers are started
    clock_offset: float = 0.0  # of the node's clock to the driver's, s
    clock_doubt: float = 0.0  # half of the round trip, s
    ray_socket: str = ""  # the longest path of a socket of Ray's
    temp: str = "/tmp"  # where engines make theirs
    storage_error: str | None = None  # of writing, reading or listing the run's folder
    hub: dict[str, str] = Field(default_factory=dict)  # hub id -> why it cannot be had there; "" where it can
    keys: dict[str, bool] = Field(default_factory=dict)  # environment variable -> whether it is set there


class Dashboard(Config):
    """The job server, and who may ask it."""

    address: str
    bound_to: tuple[str, ...]  # addresses it listens on; empty where nobody could tell
    status_without_token: int  # of HTTP


class Facts(Config):
    """Everything the judgements see."""

    nodes: tuple[Node, ...]
    output: str | None = None  # of the recipe
    unseen: tuple[str, ...] = ()  # hosts whose files in the run's folder the driver does not see
    dashboard: Dashboard | None = None
    does_not_fit: tuple[str, ...] | None = None  # what `cai-ray plan` says of these GPUs; None without any

    def said_of(self, nodes: Sequence[Node]) -> str:
        """Which of the nodes; short."""
        if len(nodes) == len(self.nodes):
            return "every node" if len(nodes) > 1 else nodes[0].host
        names = [node.host for node in nodes]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Finding(Config):
    """A line of the table."""

    check: str
    told: str
    mend: str = ""  # empty: it is well

    @property
    def is_well(self) -> bool:
        return not self.mend
