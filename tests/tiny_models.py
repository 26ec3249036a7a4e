"""Random Llamas of some 10,000 parameters with a tokenizer of single bytes: stock folders, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.microworld.tokenizer import CHAT_TEMPLATE, PAD, TURN_END, TURN_START


def byte_tokenizer() -> Any:
    """Every byte is one token; the micro world's chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = (PAD, TURN_START, TURN_END)
    vocabulary = {piece: i for i, piece in enumerate((*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tiny(folder: Path, classifier: bool = False, max_tokens: int = 2048) -> Path:
    """A causal model, or with `classifier` a sequence classifier of one output; the folder, ready for stock loaders."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_tokens,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **({"num_labels": 1} if classifier else {}),
    )
    (LlamaForSequenceClassification if classifier else LlamaForCausalLM)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
