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
    from transformers import PreTrainedTokenizerFast

PAD, TURN_START, TURN_END = "<pad>", "<|im_start|>", "<|im_end|>"
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
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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
    vocab = {piece: i for i, piece in enumerate((PAD, TURN_START, TURN_END))}
    for piece in [*sorted(learned, key=learned.__getitem__), *whole_words]:
        vocab.setdefault(piece, len(vocab))

    # With ignore_merges a word in the vocabulary is one token, though no merge leads to it.
    import json

    merges = [tuple(m) for m in json.loads(parts.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, TURN_START, TURN_END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
