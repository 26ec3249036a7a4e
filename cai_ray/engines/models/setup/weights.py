"""What a local folder must hold before an engine is started on it: weights, all of them, whole, of the config's shape.

From headers and file sizes alone: milliseconds for any model. Folders of other formats than safetensors are only asked
whether there are weights.

Tested in tests/field/test_27_setups.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cai_ray.errors import ConfigError

SAFETENSORS = "*.safetensors"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf")
INDEX = "model.safetensors.index.json"
NOT_WEIGHTS = {b"version": "a pointer of Git LFS (`git lfs pull` follows it)", b"<": "a web page"}
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
# Families whose tensors are called and shaped alike.
LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2"})
Shapes = dict[str, tuple[int, ...]]  # tensor -> its shape


def check_weights(where: str, folder: Path, config: Any = None) -> None:
    """Raises ConfigError, with the mend, for weights that are missing, cut short or not what `config` says."""
    found = sorted(folder.glob(SAFETENSORS))
    missing = [shard for shard in _index(folder) if not (folder / shard).is_file()]
    if missing:
        raise ConfigError(
            f"{where}: {str(folder)!r} lacks {len(missing)} of its weight files, {missing[0]} among them, which "
            f"{INDEX} names; fetch them, or name a whole folder"
        )
    if not found and not any(any(folder.glob(pattern)) for pattern in OTHER_WEIGHTS):
        raise ConfigError(
            f"{where}: there are no weights in {str(folder)!r} (no {SAFETENSORS}, {', '.join(OTHER_WEIGHTS)}); "
            "name the folder that holds them beside config.json"
        )
    shapes: Shapes = {}
    for file in found:
        shapes |= header(where, file)
    if config is not None and found:
        _compare(where, folder, shapes, config)


def header(where: str, file: Path) -> Shapes:
    """The tensors in a safetensors file; none where whoever loads it has to say what it is.

    Raises ConfigError for a file that was fetched wrongly: a pointer, a web page, a part of the weights.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        said = stream.read(length) if 0 < length <= min(size - 8, MOST_HEADER_BYTES) else b""
    for mark, what in NOT_WEIGHTS.items():
        if start.startswith(mark):
            raise ConfigError(f"{where}: {str(file)!r} is {what}; fetch the weights again")
    try:
        tensors = {key: entry for key, entry in json.loads(said).items() if key != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {key: tuple(entry["shape"]) for key, entry in tensors.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}
    if size != end:
        raise ConfigError(
            f"{where}: {str(file)!r} has {size:,} bytes and its header speaks of {end:,}: it is cut short or "
            "damaged; fetch it again"
        )
    return shapes


def _index(folder: Path) -> list[str]:
    """The files that the index names, if there is one."""
    if not (folder / INDEX).is_file():
        return []
    try:
        return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return []  # whoever loads the weights will say so


def _compare(where: str, folder: Path, shapes: Shapes, config: Any) -> None:
    if getattr(config, "quantization_config", None) is not None:
        return  # packed
    for suffix, expected in expected_shapes(config).items():
        for tensor, shape in shapes.items():
            if tensor.endswith(suffix) and shape != expected:
                raise ConfigError(
                    f"{where}: {tensor} in {str(folder)!r} has the shape {list(shape)}, and config.json there "
                    f"makes it {list(expected)}: weights and config are of different models; copy both from one"
                )
    layers = {number for tensor in shapes for number in _layer(tensor)}
    if config.model_type in LLAMA_LIKE and layers and len(layers) != config.num_hidden_layers:
        raise ConfigError(
            f"{where}: the weights in {str(folder)!r} have {len(layers)} layers, and config.json there says "
            f"num_hidden_layers={config.num_hidden_layers}: they are of different models; copy both from one"
        )


def expected_shapes(config: Any) -> Shapes:
    """Ending of a tensor's name -> its shape, as far as a config tells for certain."""
    text = config.get_text_config()
    if not hasattr(text, "vocab_size") or not hasattr(text, "hidden_size"):
        return {}
    hidden = text.hidden_size
    found: Shapes = {"embed_tokens.weight": (text.vocab_size, hidden)}
    if config.model_type not in LLAMA_LIKE:
        return found
    heads, mlp = text.num_attention_heads, text.intermediate_size
    wide = getattr(text, "head_dim", None) or hidden // heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * wide
    return found | {
        "self_attn.q_proj.weight": (heads * wide, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, heads * wide),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }


def _layer(tensor: str) -> Sequence[str]:
    """The number in model.layers.NUMBER.more."""
    parts = tensor.split(".")
    return [after for before, after in pairwise(parts) if before == "layers" and after.isdigit()]


def check_targets(section: str, targets: Sequence[str], folder: Path, where: str) -> None:
    """Raises ConfigError where `lora.target_modules` names no layer of the model in this folder."""
    layers = {
        tensor.removesuffix(".weight")
        for file in sorted(folder.glob(SAFETENSORS))
        for tensor, shape in header(where, file).items()
        if len(shape) == 2 and tensor.endswith(".weight")
    }
    if not layers:
        return  # of another format, or not here
    for target in targets:
        if not any(layer == target or layer.endswith(f".{target}") for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers if _layer(layer)})
            raise ConfigError(
                f"{section}.lora.target_modules: no layer of {where} is called {target!r}; "
                f"it has {', '.join(known)} (empty: all of them)"
            )
