"""From a GGUF of the Llama family to a Hugging Face folder. Weights are dequantised: they are the quantised model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = 3  # ggml's type of a control token
BLOCK = {  # a block's tensors by their Hugging Face names
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(gguf_file: Path, out: Path) -> None:
    """Write the folder `out`, float32; embeddings are tied, as the hub's are."""
    reader = GGUFReader(gguf_file)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    num_heads, num_kv = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    state: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        name, kind = tensor.name.rsplit(".", 1)
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name == "token_embd":
            hf = "model.embed_tokens"
        elif name == "output_norm":
            hf = "model.norm"
        elif name == "output":
            hf = "lm_head"
        else:
            _, layer, part = name.split(".")
            hf = f"model.layers.{layer}.{BLOCK[part]}"
            if part in ("attn_q", "attn_k"):
                values = unpermute(values, num_heads if part == "attn_q" else num_kv)
        state[f"{hf}.{kind}"] = torch.from_numpy(values.copy())
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    hidden = meta["llama.embedding_length"]
    bos, eos = meta["tokenizer.ggml.bos_token_id"], meta["tokenizer.ggml.eos_token_id"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv,
        "head_dim": hidden // num_heads,
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": meta["llama.rope.freq_base"],
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "dtype": "float32",
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }
    write(out / "config.json", config)
    write(
        out / "generation_config.json",
        {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": config["pad_token_id"]},
    )
    tokenizer(meta, config, out)


def unpermute(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """llama.cpp stores q and k with rotary pairs next to each other; transformers wants halves."""
    half = values.shape[0] // num_heads // 2
    return values.reshape(num_heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def tokenizer(meta: dict[str, Any], config: dict[str, Any], out: Path) -> None:
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, fuse_unk=False))
    # llama.cpp's pre-tokenizer "smollm": every digit alone, then GPT-2's rule.
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    built.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=tokens[config["bos_token_id"]],
        eos_token=tokens[config["eos_token_id"]],
        pad_token=tokens[config["pad_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        model_max_length=config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = meta["tokenizer.chat_template"]
    fast.save_pretrained(out)


def write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
