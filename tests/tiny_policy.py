"""A random Llama of some 100,000 parameters that reads the micro world's language; made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.microworld.tokenizer import build_tokenizer


def save_tiny_policy(folder: Path, seed: int = 0) -> Path:
    """Weights, tokenizer and chat template in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer: Any = build_tokenizer(200)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,  # of 32: vLLM on CPU has no kernel for 16
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
