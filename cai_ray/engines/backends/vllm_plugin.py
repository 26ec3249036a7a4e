"""What runs inside vLLM's own processes: their end with their parent, and weights that arrive as bytes.

vLLM's engines for moving weights need a GPU on both sides. This one takes buckets from host memory, over vLLM's own
RPC, so it works on CPUs, and on GPUs that learners and rollout engines share (NCCL refuses two ranks on one device).

It is named to vLLM as `worker_extension_cls`, which every worker process imports before it loads its model, wherever
that process runs. An entry point would do the same only where this package is installed with its metadata and no
`VLLM_PLUGINS` leaves it out. The classes need vLLM's base classes, so they are made when they are asked for.

Tested in tests/cluster/test_weight_sync.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cai_ray.engines.backends.orphans import end_with_parent
from cai_ray.engines.weights.host_engine import BACKEND, _host_weight_engine

if TYPE_CHECKING:
    pass

EXTENSION = f"{__name__}.WorkerExtension"


def __getattr__(name: str) -> Any:
    if name == "WorkerExtension":
        _set_up()
        return WorkerMark
    if name == "HostWeightEngine":
        return _host_weight_engine()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class WorkerMark:
    """Adds nothing to vLLM's worker: being imported by it is the point."""


@cache
def _set_up() -> None:
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    end_with_parent()
    WeightTransferEngineFactory.register_engine(BACKEND, __name__, "HostWeightEngine")
