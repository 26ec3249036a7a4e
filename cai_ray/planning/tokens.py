"""Counting tokens before there is an answer: the model's own tokenizer or a stand-in, replies of a given length.

Tested in tests/planning/test_counting.py.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cai_ray.chat import Message, Renderer
from cai_ray.config import ModelConfig, SamplingConfig, is_micro_model
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.errors import ConfigError
from cai_ray.lookup import location

CHARACTERS_PER_TOKEN = 4
_WORDS = ("time", "day", "water", "house", "people", "light", "garden", "river", "table", "letter", "music", "paper")
_THREE_LETTERS = ("sun", "sky", "sea", "map", "pen", "cup", "hat", "box", "key", "bus", "cat", "dog", "egg", "fan")


class FourCharacters:
    """A tokenizer of the rough kind, for a model whose files are not here: four characters a token, ChatML turns."""

    all_special_tokens = ("<|im_start|>", "<|im_end|>")
    all_special_ids = (0, 1)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012, a tokenizer's own attribute
    eos_token = "<|im_end|>"
    chat_template = "four characters"

    def apply_chat_template(self, messages: Sequence[Message], **options: Any) -> str:
        """A turn's frame is about five tokens, as in the templates in use."""
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        if options.get("continue_final_message"):
            turns[-1] = turns[-1].removesuffix("<|im_end|>\n")
        opened = "<|im_start|>assistant\n" if options.get("add_generation_prompt") else ""
        return "".join(turns) + opened

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Control tokens one by one, all else in pieces of four characters."""
        ids: list[int] = []
        for piece in re.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
            if piece in self.all_special_tokens:
                ids.append(self.all_special_tokens.index(piece))
            else:
                size = CHARACTERS_PER_TOKEN
                ids += [2 + hash(piece[at : at + size]) % 2**31 for at in range(0, len(piece), size)]
        return ids


@dataclass(frozen=True)
class Lengths:
    """Expected tokens of each kind of reply, end token included, and where the numbers come from."""

    source: str  # "assumed share of max_tokens" | "the micro world's language" | "measured in ..."
    shares: dict[str, float]  # of max_tokens
    known: dict[str, float] = field(default_factory=dict)  # tokens; goes before the share

    def of(self, kind: str, sampling: SamplingConfig) -> int:
        expected = self.known[kind] if kind in self.known else self.shares[kind] * sampling.max_tokens
        return max(1, min(round(expected), sampling.max_tokens))


@dataclass(frozen=True)
class Counter:
    """One model's tokens."""

    renderer: Renderer
    answer: AnswerTokens
    lengths: Lengths
    is_exact: bool  # the model's own tokenizer
    words: tuple[str, ...]  # about one token each

    def reply(self, rng: random.Random, num_tokens: int) -> tuple[str, list[int]]:
        """A text of about so many tokens, and its ids; never the same text twice."""
        text = " ".join(rng.choices(self.words, k=max(1, num_tokens)))
        return text, self.renderer.encode(text, is_start=False)[:num_tokens]


def counter_of(model: ModelConfig, lengths: Lengths) -> Counter:
    """With the model's tokenizer where its files are on this machine, or the stand-in. Downloads nothing."""
    renderer = _own_renderer(model)
    is_exact = renderer is not None
    if renderer is None:
        renderer = Renderer(
            FourCharacters(), model.format, "native" if model.system_role == "auto" else model.system_role
        )
    answer = AnswerTokens(renderer, model.thinking)
    return Counter(renderer, answer, lengths, is_exact, _short_words(renderer))


def _own_renderer(model: ModelConfig) -> Renderer | None:
    name = model.tokenizer or model.path
    if is_micro_model(name):  # made on the spot: a plan writes nothing, not even into the cache
        return Renderer(microworld_tokenizer(), model.format, model.system_role)
    if model.endpoint is not None or not (Path(location(name)).is_dir() or _is_cached(name, model.revision)):
        return None
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is cached is enough, and a plan must not wait for a network
    try:
        return load_renderer(model)
    except ConfigError:
        return None


@cache
def microworld_tokenizer() -> Any:
    """The micro model's, made on the spot."""
    from cai_ray.microworld.tokenizer import build_tokenizer

    return build_tokenizer()


def _is_cached(name: str, revision: str | None) -> bool:
    if "://" in name or name.startswith(("/", ".")) or name.count("/") > 1:
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "tokenizer_config.json", revision=revision), str)


def _short_words(renderer: Renderer) -> tuple[str, ...]:
    """Words that this tokenizer spells with one token each, so that so many words are so many tokens."""
    if isinstance(renderer.tokenizer, FourCharacters):
        return _THREE_LETTERS  # four characters with the space
    found = [word for word in _WORDS if len(renderer.encode(f"{word} {word}", is_start=False)) == 2]
    if len(found) >= 4:
        return tuple(found)
    spelt = (token.lstrip("▁Ġ") for token in renderer.tokenizer.get_vocab() if token.startswith(("▁", "Ġ")))
    words = sorted({word for word in spelt if re.fullmatch(r"[a-z]{2,}", word)})
    return tuple(words[:200]) or _WORDS


@cache
def microworld_replies(counted: int = 400) -> dict[str, list[str]]:
    """Replies of each kind in the micro world's language, as its dialogues have them."""
    from cai_ray.microworld.comparison_dialogues import comparison_dialogue
    from cai_ray.microworld.dialogues import expansion_dialogue, revision_dialogue

    rng = random.Random(0)
    found: dict[str, list[str]] = {"answer": [], "critique": [], "revision": [], "reasoning": [], "requests": []}
    for _ in range(counted):
        texts = [message["content"] for message in revision_dialogue(rng, 4).messages]
        found["answer"].append(texts[-17])
        found["critique"] += texts[-15::4]
        found["revision"] += texts[-13::4]
    for _ in range(counted // 4):
        found["reasoning"].append(comparison_dialogue(rng, think=True).messages[-1]["content"].partition("\n\n")[0])
        found["requests"].append(expansion_dialogue(rng).messages[-1]["content"])
    return found


def mean_tokens(renderer: Renderer, texts: Sequence[str]) -> float:
    """Mean length, the end token included."""
    return 1 + sum(len(renderer.encode(text, is_start=False)) for text in texts) / max(1, len(texts))
