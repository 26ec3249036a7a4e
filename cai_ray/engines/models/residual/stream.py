"""Which modules of a model write to its residual stream, by the names that transformers and vLLM both give them.

Two shapes: the output projections write themselves (Llama, Qwen 2/2.5/3, Mistral, Phi-3), or what they make goes
through a norm with a gain first (Gemma 2 and 3, OLMo 2). Mixtures of experts have neither.

Tested in tests/engines/models/residual/test_forms.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai_ray.errors import ConfigError

PROJECTIONS = ("self_attn.o_proj", "mlp.down_proj")
NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
ELSEWHERE = "PPMissingLayer"  # vLLM's, of a layer that another pipeline stage holds


@dataclass(frozen=True)
class Layer:
    """One layer's writers, those of attention and MLP in this order."""

    projections: tuple[Any, Any]  # linear layers [d, d_in]
    norms: tuple[Any, Any] | None  # between them and the residual stream; None: there is none

    @property
    def writers(self) -> tuple[Any, Any]:
        """The modules whose output is added to the residual stream."""
        return self.norms or self.projections


@dataclass(frozen=True)
class Stream:
    """A model's residual stream."""

    embeddings: Any  # the module that begins it
    blocks: tuple[Any, ...]  # the layers as modules; their first input is the stream before them
    layers: tuple[Layer | None, ...]  # None: elsewhere

    @property
    def is_direct(self) -> bool:
        """Whether the projections themselves write, so that weights alone can be made not to."""
        return all(layer is None or layer.norms is None for layer in self.layers)


def stream_of(model: Any) -> Stream:
    """Of a causal language model, as transformers or vLLM have loaded it. Raises ConfigError for another shape."""
    inner: Any = getattr(model, "model", None)
    for name in ("language_model", "model"):  # Gemma 3 with eyes
        inner = inner if inner is None or hasattr(inner, "layers") else getattr(inner, name, inner)
    if not hasattr(inner, "layers") or not hasattr(inner, "embed_tokens"):
        raise ConfigError(
            f"{type(model).__name__} has no model.layers and model.embed_tokens, so it is not known where it writes to "
            "its residual stream; Llama, Qwen 2 and 3, Mistral, Phi-3, Gemma 2 and 3 have them"
        )
    blocks = tuple(inner.layers)
    return Stream(inner.embed_tokens, blocks, tuple(_layer(type(model).__name__, k, b) for k, b in enumerate(blocks)))


def _layer(architecture: str, number: int, block: Any) -> Layer | None:
    if type(block).__name__ == ELSEWHERE:
        return None
    attention, mlp = (_find(block, path) for path in PROJECTIONS)
    if attention is None or mlp is None:
        missing = " and ".join(path for path in PROJECTIONS if _find(block, path) is None)
        there = ", ".join(name for name, _ in block.named_children())
        raise ConfigError(
            f"layer {number} of {architecture} has no {missing} (it has {there}): "
            "a direction cannot be taken out of a model of this shape (mixtures of experts among them)"
        )
    # Llama has a post_attention_layernorm too, which is the MLP's own and writes nothing.
    norms = tuple(_find(block, path) for path in NORMS)
    return Layer((attention, mlp), (norms[0], norms[1]) if norms[1] is not None else None)


def _find(block: Any, path: str) -> Any:
    for name in path.split("."):
        block = getattr(block, name, None)
    return block


def gain_of(norm: Any) -> Any:
    """What a norm multiplies with, float64 [d], whether it keeps the gain or the gain less 1."""
    import torch

    weight = norm.weight
    ones = torch.ones(len(weight), dtype=torch.float32, device=weight.device)
    with torch.no_grad():
        return norm(ones).double().cpu().numpy()
