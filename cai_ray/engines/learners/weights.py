"""The policy's weights under their Hugging Face names: whole, adapters merged, bucket by bucket.

Tested in tests/cluster/test_policy_learners.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_ray.engines.learners.models import gathered
from cai_ray.engines.learners.nets import language_model

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER = "default"  # peft's name for the only adapter
EXPORT_BUCKET_BYTES = 2**30


@dataclass(frozen=True)
class Weight:
    """One tensor of the saved model. `parts` must be whole when `value` is called."""

    name: str
    size_bytes: int
    parts: tuple[Any, ...]
    value: Callable[[], Tensor]


def policy_weights(model: Any) -> Iterator[Weight]:
    """Every parameter of a causal language model, in its own order; tied ones once.

    Args:
        model: a transformers model, or peft's wrapper around one.
    """
    whole = language_model(model)
    for name, parameter in whole.named_parameters():
        if ".lora_" in name:
            continue
        owner = whole.get_submodule(name.rpartition(".")[0].removesuffix(".base_layer")) if "." in name else None
        size = getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        if owner is None or ".base_layer." not in name or not name.endswith(".weight"):
            yield Weight(name.replace(".base_layer.", "."), size, (parameter,), parameter.detach)
            continue
        adapters = (owner.lora_A[ADAPTER].weight, owner.lora_B[ADAPTER].weight)
        yield Weight(name.replace(".base_layer.", "."), size, (parameter, *adapters), _Merged(owner, parameter))


@dataclass(frozen=True)
class _Merged:
    """A linear layer's weight with what its adapter adds."""

    layer: Any
    weight: Any

    def __call__(self) -> Tensor:
        merged: Tensor = self.weight.detach() + self.layer.get_delta_weight(ADAPTER).detach().to(self.weight.dtype)
        return merged


def buckets(weights: Iterator[Weight], bucket_bytes: int) -> Iterator[list[Weight]]:
    """Neighbours together up to `bucket_bytes`; a larger one alone."""
    bucket: list[Weight] = []
    size = 0
    for weight in weights:
        if bucket and size + weight.size_bytes > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(weight)
        size += weight.size_bytes
    if bucket:
        yield bucket


def stream(model: Any, bucket_bytes: int, take: Callable[[list[tuple[str, Tensor]]], None] | None) -> None:
    """Hand over all weights, bucket by bucket. All workers call it; one of them has a `take`.

    A tensor may be the model's own: `take` copies what it keeps.
    """
    for bucket in buckets(policy_weights(model), bucket_bytes):
        with gathered([part for weight in bucket for part in weight.parts]):
            if take is not None:
                take([(weight.name, weight.value()) for weight in bucket])


def export(model: Any, tokenizer: Any, folder: Path | None, model_card: str, dtype: Any) -> None:
    """Save a Hugging Face folder, its weights as `dtype`. All workers call it, one with a folder."""
    whole = language_model(model)
    state: dict[str, Tensor] = {}

    def keep(bucket: list[tuple[str, Tensor]]) -> None:
        for name, tensor in bucket:
            copy = tensor.to("cpu", dtype, copy=True)
            state[name] = copy.contiguous()

    stream(model, EXPORT_BUCKET_BYTES, keep if folder is not None else None)
    if folder is None:
        return
    whole.save_pretrained(folder, state_dict=state)
    _set(folder / "config.json", dtype=str(dtype).removeprefix("torch."))
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card, encoding="utf-8")


def _set(config: Path, **values: Any) -> None:
    saved = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**saved, **values}, indent=2) + "\n", encoding="utf-8")
