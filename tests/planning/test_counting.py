"""Tokens: the prefix cache, the stand-in tokenizer, answers of a given length."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.planning.stand_in_engine import PrefixCache
from cai_ray.planning.tokens import FourCharacters, Lengths, counter_of

SHARES = {"answer": 0.5, "thinking": 0.5}
IDS = st.lists(st.integers(0, 3), max_size=40)


@given(IDS, IDS, st.integers(1, 8))
def test_the_cache_serves_whole_blocks_of_what_was_seen_and_never_the_last_token(
    seen: list[int], asked: list[int], block: int
) -> None:
    cache = PrefixCache(block)
    cache.add(seen)
    common = next((k for k, (a, b) in enumerate(zip(seen, asked, strict=False)) if a != b), min(len(seen), len(asked)))
    assert cache.cached(asked) == min(common, max(0, len(asked) - 1)) // block * block


def test_the_stand_in_counts_four_characters_a_token() -> None:
    tokenizer = FourCharacters()
    assert len(tokenizer.encode("x" * 400)) == 100
    assert len(tokenizer.encode("<|im_start|>user\nabcd<|im_end|>")) == 2 + 3


@given(st.integers(1, 200), st.integers(0, 99))
def test_replies_have_the_length_that_is_asked_for(num_tokens: int, seed: int) -> None:
    counter = STAND_IN
    text, ids = counter.reply(random.Random(seed), num_tokens)
    assert len(ids) == num_tokens
    assert abs(len(text) / 4 - num_tokens) <= 1


@pytest.mark.parametrize(
    ("model", "folds"), [({"system_role": "fold"}, True), ({"system_role": "native"}, False), ({}, False)]
)
def test_the_stand_in_treats_system_messages_as_the_recipe_says(model: dict[str, Any], folds: bool) -> None:
    counter = counter_of(ModelConfig(path="google/gemma-2-9b-it", **model), Lengths("", SHARES))
    text = counter.renderer.text([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    assert text.startswith("<|im_start|>user\nBe kind.") == folds


def test_a_known_length_goes_before_the_share_and_max_tokens_before_both() -> None:
    lengths = Lengths("", SHARES, {"critique": 30.0})
    assert lengths.of("answer", SamplingConfig(max_tokens=100)) == 50
    assert lengths.of("critique", SamplingConfig(max_tokens=100)) == 30
    assert lengths.of("critique", SamplingConfig(max_tokens=20)) == 20


STAND_IN = counter_of(ModelConfig(path="meta-llama/Llama-3.1-8B-Instruct"), Lengths("", SHARES))
