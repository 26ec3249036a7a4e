"""vLLM's side of a weight update through host memory.

Tested in tests/cluster/test_weight_sync.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cai_ray.engines.weights.buckets import Layout, unpack

if TYPE_CHECKING:
    from torch.nn import Module

BACKEND = "cai_ray_host"  # the engine's name in vLLM's weight_transfer_config


@dataclass
class NoInitInfo:
    """There is no rendezvous."""


@dataclass
class BucketInfo:
    """One bucket: a Layout's fields and its bytes."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    offsets: list[int]
    data: bytes


@cache
def _host_weight_engine() -> type:
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    class HostWeightEngine(WeightTransferEngine[NoInitInfo, BucketInfo]):  # type: ignore[misc]
        init_info_cls = NoInitInfo
        update_info_cls = BucketInfo

        def init_transfer_engine(self, init_info: NoInitInfo) -> None:
            pass

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            # Not the base class's: it synchronises an accelerator, which a CPU worker has not.
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: BucketInfo) -> None:
            layout = Layout(
                names=update_info.names,
                dtype_names=update_info.dtype_names,
                shapes=update_info.shapes,
                offsets=update_info.offsets,
            )
            self.model.load_weights(unpack(layout, bytearray(update_info.data)))

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)
            repack_tied_heads(self.model)

        def shutdown(self) -> None:
            pass

    return HostWeightEngine


def repack_tied_heads(model: Module) -> None:
    """Let output heads that share the input embedding's weight see it anew.

    On a CPU vLLM keeps a repacked copy of each linear layer's weight and renews it when that layer is loaded. A tied
    head is never loaded itself: without this it would go on with the old weights, silently (vLLM 0.32). Untied heads
    were repacked already.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    shared = {embedding.weight.data_ptr() for embedding in embeddings}
    for head in heads:
        if head.weight.data_ptr() in shared:
            head.quant_method.process_weights_after_loading(head)
