"""How long a text a model reads, by its config: the rule of vLLM 0.32 (`_get_and_verify_max_len`).

Tested in tests/engines/models/setup/test_context.py.
"""

from __future__ import annotations

from typing import Any

UNSAID = 2048  # tokens, of a config that says nothing
_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
# RoPE kinds whose config says the stretched length already.
_STRETCHED = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})


def longest_context(config: Any) -> int | None:
    """The most tokens that this transformers config allows; None where it says nothing."""
    text = config.get_text_config()
    said = [length for key in _KEYS if (length := getattr(text, key, None)) is not None]
    if not said:
        return None
    longest = getattr(text, "model_max_length", None) or min(said)
    factor = 1.0
    if "gemma3" not in text.model_type:
        for rope in _ropes(text):
            if rope.get("rope_type") not in _STRETCHED:
                factor = rope.get("factor") or factor
    return int(longest * factor)


def default_context(config: Any) -> int:
    """What an engine takes where the recipe is silent, tokens."""
    text = config.get_text_config()
    longest = longest_context(config) or UNSAID
    if any(rope.get("rope_type") == "longrope" for rope in _ropes(text)):
        return int(getattr(text, "original_max_position_embeddings", None) or longest)
    return longest


def _ropes(text: Any) -> list[dict[str, Any]]:
    """RoPE settings; several where kinds of layers have their own."""
    said = getattr(text, "rope_parameters", None)
    if not isinstance(said, dict) or not said:
        return []
    return [said] if "rope_type" in said else [part for part in said.values() if isinstance(part, dict) and part]
