"""A random four-million-parameter Llama for English text, and real conversations to ask it about.

What a random model says is noise, but it takes as long to say as sense would: these are for timings. The tokenizer is
trained on the conversations themselves, so that a word is about a token, as with a real model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cai_ray.microworld.tokenizer import SPECIAL_TOKENS, chat_tokenizer
from cai_ray.prompt_layouts.pairs import PAIRS, ParsedPair
from cai_ray.prompt_layouts.readings import read_by

CONVERSATIONS = Path(__file__).parents[2] / "shared" / "data" / "hh_rlhf" / "harmless-base-test.jsonl.gz"
VOCABULARY = 4096
CONTEXT = 2048


def pairs(limit: int) -> list[ParsedPair]:
    """The first `limit` comparisons of hh-rlhf's harmless test set: conversations of several turns, two answers."""
    read = (pair for _, pair in read_by(str(CONVERSATIONS), "auto", None, PAIRS, "auto", {}))
    told_apart = (pair for pair in read if isinstance(pair, ParsedPair) and pair.chosen != pair.rejected)
    return list(islice((pair for pair in told_apart if pair.chosen.strip() and pair.rejected.strip()), limit))


def save(folder: Path) -> Path:
    """A stock Hugging Face folder. The weights are random, by a fixed seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = _tokenizer(list(_texts(pairs(1000))))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=224,
        intermediate_size=608,
        num_hidden_layers=4,
        num_attention_heads=7,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _texts(found: Sequence[ParsedPair]) -> Iterator[str]:
    for pair in found:
        yield from (message["content"] for message in pair.messages)
        yield pair.chosen
        yield pair.rejected


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return chat_tokenizer(tokenizer, max_tokens=CONTEXT)
