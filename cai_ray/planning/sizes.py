"""Parameters and shape of a decoder model: from its config.json where that is there, else by its name.

Tested in tests/planning/test_arithmetic.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_ray.config import ModelConfig, is_micro_model
from cai_ray.engines.models.setup.adapters import base_of, is_adapter
from cai_ray.errors import ConfigError
from cai_ray.lookup import location
from cai_ray.planning.tokens import microworld_tokenizer


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with gated MLPs."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool = False  # input and output embeddings are one matrix
    context: int = 131072  # tokens

    @property
    def layer_params(self) -> int:
        """Of one layer's matrices."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.mlp

    @property
    def params(self) -> int:
        return self.layers * self.layer_params + (1 if self.tied else 2) * self.vocab * self.hidden

    def kv_bytes(self, bytes_per_value: int = 2) -> int:
        """Of the KV cache per token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value

    def lora_params(self, rank: int) -> int:
        """Of adapters on every linear layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.mlp)
        return self.layers * rank * widths


# Patterns of hub ids, the first that is found; the shapes are of the models' own config.json.
KNOWN: tuple[tuple[str, Shape], ...] = (
    (r"smollm2-135m", Shape(576, 30, 9, 3, 64, 1536, 49152, tied=True, context=8192)),
    (r"llama-?3\.2-1b", Shape(2048, 16, 32, 8, 64, 8192, 128256, tied=True)),
    (r"llama-?3\.2-3b", Shape(3072, 28, 24, 8, 128, 8192, 128256, tied=True)),
    (r"llama-?3[.\d]*-?8b|distill-llama-8b|llama-guard-3-8b", Shape(4096, 32, 32, 8, 128, 14336, 128256)),
    (r"llama-?3[.\d]*-?70b|distill-llama-70b", Shape(8192, 80, 64, 8, 128, 28672, 128256)),
    (r"qwen2\.5-0\.5b", Shape(896, 24, 14, 2, 64, 4864, 151936, tied=True, context=32768)),
    (r"qwen2\.5-1\.5b", Shape(1536, 28, 12, 2, 128, 8960, 151936, tied=True, context=32768)),
    (r"qwen2\.5-3b", Shape(2048, 36, 16, 2, 128, 11008, 151936, tied=True, context=32768)),
    (r"qwen2\.5-7b", Shape(3584, 28, 28, 4, 128, 18944, 152064, context=32768)),
    (r"qwen2\.5-14b", Shape(5120, 48, 40, 8, 128, 13824, 152064, context=32768)),
    (r"qwen2\.5-32b", Shape(5120, 64, 40, 8, 128, 27648, 152064, context=32768)),
    (r"qwen2\.5-72b", Shape(8192, 80, 64, 8, 128, 29568, 152064, context=32768)),
    (r"llama-?2-7b|starling-rm-7b", Shape(4096, 32, 32, 32, 128, 11008, 32000, context=4096)),
    (r"llama-?2-13b", Shape(5120, 40, 40, 40, 128, 13824, 32000, context=4096)),
    (r"mistral-7b|wildguard", Shape(4096, 32, 32, 8, 128, 14336, 32768, context=32768)),
    (r"gemma-2-2b|shieldgemma-2b", Shape(2304, 26, 8, 4, 256, 9216, 256000, tied=True, context=8192)),
    (r"gemma-2-9b|shieldgemma-9b", Shape(3584, 42, 16, 8, 256, 14336, 256000, tied=True, context=8192)),
    (r"gemma-2-27b", Shape(4608, 46, 32, 16, 128, 36864, 256000, tied=True, context=8192)),
)


def shape_of(model: ModelConfig) -> Shape:
    """Raises ConfigError for a model that is neither a local folder nor of a known family."""
    if is_micro_model(model.path):
        return _microworld()
    folder = Path(location(model.path))
    if is_adapter(folder):
        return shape_of(model.model_copy(update={"path": base_of(folder)}))
    if (folder / "config.json").is_file():
        return _from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    for pattern, shape in KNOWN:
        if re.search(pattern, model.path.lower()):
            return shape
    raise ConfigError(
        f"the size of model {model.path!r} is not known here; give a local folder with its config.json, or plan with a "
        "model of the same size (--set models.<name>.path=...): known are Llama 3, Qwen2.5, Mistral 7B, Gemma 2"
    )


def _microworld() -> Shape:
    """The micro model as it is by default."""
    from cai_ray.microworld.pretrain import PretrainConfig

    made = PretrainConfig()
    return Shape(
        hidden=made.hidden_size,
        layers=made.num_layers,
        heads=made.num_heads,
        kv_heads=made.num_heads,
        head_dim=made.hidden_size // made.num_heads,
        mlp=made.mlp_size,
        vocab=len(microworld_tokenizer()),
        context=made.context,
    )


def _from_config(config: dict[str, Any]) -> Shape:
    config = config.get("text_config", config)
    heads = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        mlp=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        context=config.get("max_position_embeddings", 4096),
    )
