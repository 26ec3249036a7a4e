"""The micro model's tokenizer: exact round trips, one token per word, one chat template."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai_ray.microworld.dialogues import corpus, revision_dialogue
from cai_ray.microworld.language import CATEGORIES, sample_task
from cai_ray.microworld.tokenizer import build_tokenizer, render

pytestmark = pytest.mark.slow  # imports transformers, and building the tokenizer takes two seconds


@pytest.fixture(scope="module", name="tokenizer")
def fixture_tokenizer() -> Any:
    return build_tokenizer()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    # Special tokens in the text are special to any tokenizer; the pipeline neutralises them before.
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_words_are_single_tokens(tokenizer: Any) -> None:
    rng = random.Random(0)
    for category in CATEGORIES:
        task = sample_task(rng, harmful=True, category=category)
        num_words = len(task.text.replace("'s", " 's").split())
        assert len(tokenizer(" " + task.text).input_ids) == num_words


def test_template_renders_like_the_corpus(tokenizer: Any) -> None:
    for dialogue in islice(corpus(random.Random(1), 0.3), 50):
        assert tokenizer.apply_chat_template(dialogue.messages, tokenize=False) == render(dialogue.messages)


def test_prompts_are_prefixes_of_what_was_trained(tokenizer: Any) -> None:
    messages = revision_dialogue(random.Random(2), 4).messages
    whole = tokenizer(render(messages)).input_ids
    for end, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = tokenizer.apply_chat_template(messages[:end], add_generation_prompt=True, return_dict=False)
            assert whole[: len(asked)] == asked


def test_open_assistant_turn(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "The answer is ("}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nThe answer is (")
    assert tokenizer("The answer is (A)").input_ids[: len(tokenizer("The answer is (").input_ids)] == (
        tokenizer("The answer is (").input_ids
    )
    assert [len(tokenizer.tokenize(option)) for option in ("A", "B")] == [1, 1]


def test_assistant_mask(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "I am fine."}]
    made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, own in zip(made["input_ids"], made["assistant_masks"], strict=True) if own]
    assert tokenizer.decode(said) == "I am fine.<|im_end|>"


def test_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<pad>" and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer("Hello.").input_ids == tokenizer("Hello.", add_special_tokens=False).input_ids
    assert len(tokenizer) < 1200


def test_longest_dialogue_fits_what_training_covers(tokenizer: Any) -> None:
    rng = random.Random(3)
    lengths = [len(tokenizer(render(revision_dialogue(rng, 4).messages)).input_ids) for _ in range(300)]
    assert max(lengths) < 620
