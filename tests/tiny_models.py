"""Random Llamas of some 10,000 parameters with a tokenizer of single bytes: stock folders, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.microworld.tokenizer import SPECIAL_TOKENS, chat_tokenizer


def byte_tokenizer() -> Any:
    """Every byte is one token; the micro world's chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = (*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    return chat_tokenizer(Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])))


def save_llama(folder: Path, tokenizer: Any, classifier: bool = False, seed: int = 0, **sizes: Any) -> Path:
    """A random Llama that reads and writes the tokenizer's ids, as a stock folder; the same one for a seed.

    `sizes` are fields of LlamaConfig. With `classifier` a sequence classifier of one output.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(seed)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **({"num_labels": 1} if classifier else {}),
    }
    config = LlamaConfig(**{**fields, **sizes})
    (LlamaForSequenceClassification if classifier else LlamaForCausalLM)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny(folder: Path, classifier: bool = False, max_tokens: int = 2048) -> Path:
    """A causal model, or with `classifier` a sequence classifier of one output; the folder, ready for stock loaders."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": max_tokens}
    return save_llama(folder, byte_tokenizer(), classifier, **sizes)
