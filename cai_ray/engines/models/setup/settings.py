"""Engine settings that vLLM would refuse, or the model cannot have: found without importing vLLM.

Tested in tests/field/test_27_setups.py.
"""

from __future__ import annotations

import ast
import difflib
import functools
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.setup.context import longest_context
from cai_ray.errors import ConfigError

REWRITES_CONFIG = "hf_overrides"  # in engine.extra: what config.json says no longer holds
LONGER_ALLOWED = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def check_settings(where: str, model: ModelConfig, config: Any) -> None:
    """Raises ConfigError for a key, method, width or length that no start makes right. `config`: transformers'."""
    engine, text = model.engine, config.get_text_config()
    _known(f"{where}.engine.extra", sorted(engine.extra), engine_arguments(), "is no argument of vLLM's engine")
    method = engine.extra.get("quantization")
    if isinstance(method, str):
        key = f"{where}.engine.extra.quantization"
        _known(key, [method], quantization_methods(), "is no quantisation that vLLM has")
    if REWRITES_CONFIG in engine.extra:
        return
    width, heads = engine.tensor_parallel_size, getattr(text, "num_attention_heads", None)
    if heads and heads % width:
        fits = [size for size in range(1, heads + 1) if heads % size == 0]
        raise ConfigError(
            f"{where}.engine.tensor_parallel_size={width} does not divide the model's {heads} attention heads; "
            f"use one of {', '.join(map(str, fits))}"
        )
    longest = longest_context(config)
    asked = model.max_model_len
    if asked is not None and longest is not None and asked > longest and os.environ.get(LONGER_ALLOWED, "0") != "1":
        raise ConfigError(
            f"{where}.max_model_len={asked} is more than the {longest} tokens that the model at {model.path!r} "
            "was made for (its config.json); lower it, or leave it out"
        )


def _known(where: str, given: list[str], known: frozenset[str], problem: str) -> None:
    for word in given:
        if known and word not in known:
            near = difflib.get_close_matches(word, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `vllm serve --help`, with _ for -"
            raise ConfigError(f"{where}: {word!r} {problem}; {hint}")


@functools.cache
def engine_arguments() -> frozenset[str]:
    """The fields of vLLM's AsyncEngineArgs; empty where vLLM is not installed."""
    return frozenset(
        node.target.id
        for owner in ast.walk(_source("engine/arg_utils.py"))
        if isinstance(owner, ast.ClassDef) and owner.name in ("EngineArgs", "AsyncEngineArgs")
        for node in owner.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )


@functools.cache
def quantization_methods() -> frozenset[str]:
    """What vLLM calls its methods; empty where it is not installed."""
    return frozenset(
        str(constant.value)
        for node in _source("model_executor/layers/quantization/__init__.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "QuantizationMethods"
        for constant in ast.walk(node.value)
        if isinstance(constant, ast.Constant)
    )


def _source(path: str) -> ast.Module:
    """A file of the installed vLLM. Importing it would take seconds."""
    found = find_spec("vllm")
    file = Path(found.origin or "").parent / path if found else Path(path)
    return ast.parse(file.read_text(encoding="utf-8")) if found and file.is_file() else ast.Module([], [])
