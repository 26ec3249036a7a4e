"""Random models of the architectures in use, some 100,000 parameters each, whose every peculiarity shows.

Soft caps are low and sliding windows short, so that a learner without them is far from the engine; heads are as wide as
vLLM's CPU kernels need them (32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_models import byte_tokenizer

WINDOW = 16  # tokens
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": None,
}
GEMMA: dict[str, Any] = {
    "tie_word_embeddings": True,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 8,
    "final_logit_softcapping": 4.0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
# transformers' name of the config class -> what is special
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {"tie_word_embeddings": False},
    "Qwen2Config": {"tie_word_embeddings": True},
    "Qwen3Config": {"tie_word_embeddings": True},
    "MistralConfig": {"tie_word_embeddings": False, "sliding_window": WINDOW},
    "Gemma2Config": {**GEMMA, "attn_logit_softcapping": 2.0, "hidden_activation": "gelu_pytorch_tanh"},
    "Gemma3TextConfig": {**GEMMA, "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh"},
}


def save_architecture(folder: Path, name: str, **changes: Any) -> Path:
    """A stock folder with a tokenizer of bytes and the micro world's chat template; always the same weights."""
    import torch
    import transformers

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = getattr(transformers, name)(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES | ARCHITECTURES[name] | changes,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
