"""The micro model's tokenizer: byte-level, one token per word of the language, with a chat template.

Any text round-trips exactly, because every byte has a token. Words of the language are single tokens, which makes
copying them easy for a model this small. There is no beginning-of-sequence token, so none can be doubled;
"<|im_end|>" ends a turn and is the end-of-sequence token, and padding has a token of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from cai_ray.microworld.dialogues import corpus
from cai_ray.microworld.language import Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, TURN_START, TURN_END = "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END)
NUM_PART_TOKENS = 192  # learned pieces below the word, for text outside the language

# ChatML. `generation` marks what the assistant says, so that trainers can mask the loss.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def render(messages: Iterable[Message]) -> str:
    """What CHAT_TEMPLATE renders for a whole dialogue, without Jinja (the corpus is large)."""
    return "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)


def build_tokenizer(num_dialogues: int = 6000) -> PreTrainedTokenizerFast:
    """Make the tokenizer from sample dialogues; always the same one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts = ["\n".join(m["content"] for m in d.messages) for d in islice(corpus(random.Random(0), 0.1), num_dialogues)]
    texts += ["system", "user", "assistant"]
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole_words = sorted({piece for text in texts for piece, _ in pieces.pre_tokenize_str(text)})

    parts = Tokenizer(models.BPE())
    parts.pre_tokenizer = pieces
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + NUM_PART_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    parts.train_from_iterator(whole_words, trainer)
    learned = parts.get_vocab()
    vocab = {piece: i for i, piece in enumerate(SPECIAL_TOKENS)}
    for piece in [*sorted(learned, key=learned.__getitem__), *whole_words]:
        vocab.setdefault(piece, len(vocab))

    # With ignore_merges a word in the vocabulary is one token, though no merge leads to it.
    import json

    merges = [tuple(m) for m in json.loads(parts.to_str())["model"]["merges"]]
    return chat_tokenizer(Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True)), max_tokens=4096)


def chat_tokenizer(tokenizer: Tokenizer, max_tokens: int | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, wrapped for transformers: our special tokens, our chat template, no other additions.

    Its vocabulary must hold every byte, PAD, TURN_START and TURN_END.
    """
    from tokenizers import AddedToken, decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        **({} if max_tokens is None else {"model_max_length": max_tokens}),
    )
