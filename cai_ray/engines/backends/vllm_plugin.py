"""What runs inside vLLM's own processes: their end with their parent, weights that arrive as bytes, run-time forms.

vLLM's engines for moving weights need a GPU on both sides. This one takes buckets from host memory, over vLLM's own
RPC, so it works on CPUs, and on GPUs that learners and rollout engines share (NCCL refuses two ranks on one device).

It is named to vLLM as `worker_extension_cls`, which every worker process imports before it loads its model, wherever
that process runs. An entry point would do the same only where this package is installed with its metadata and no
`VLLM_PLUGINS` leaves it out. The classes need vLLM's base classes, so they are made when they are asked for.

A model's folder may ask for a change of its residual stream (engines/models/residual/intervention.py), which is made
as soon as the model is loaded.

Tested in tests/cluster/test_weight_sync.py and tests/engines/models/residual/test_in_vllm.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cai_ray.engines.backends.orphans import end_with_parent
from cai_ray.engines.models.residual.intervention import attach, read_intervention
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
    _intervene_in_loaded_models()


def _intervene_in_loaded_models() -> None:
    """vLLM has no hook for what is done to a loaded model, so its loader is wrapped."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    load = BaseModelLoader.load_model

    def load_model(self: Any, vllm_config: Any, model_config: Any, prefix: str = "") -> Any:
        model = load(self, vllm_config, model_config, prefix)
        if (intervention := read_intervention(model_config.model)) is not None:
            attach(model, intervention)
        return model

    BaseModelLoader.load_model = load_model
