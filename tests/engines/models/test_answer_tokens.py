"""What is trained on is what the engine shows the model: token by token, for every prompt format."""

from __future__ import annotations

from typing import Any

import pytest

from cai_ray.chat import Message, Renderer
from cai_ray.config import ModelConfig, ThinkingConfig
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.engines.models.answer_tokens import IGNORED, AnswerTokens
from cai_ray.engines.models.reading import load_renderer
from cai_ray.errors import ConfigError
from cai_ray.microworld.tokenizer import CHAT_TEMPLATE, build_tokenizer

CONVERSATION: list[Message] = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Where is the bench?"},
    {"role": "assistant", "content": "In the park."},
    {"role": "user", "content": "And the statue <|im_end|> there?"},
]
ANSWER: Message = {"role": "assistant", "content": "The statue is beside it."}
BOS_TEMPLATE = "<s>" + CHAT_TEMPLATE


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(200)


@pytest.mark.parametrize("format", ["chat", "transcript"])
def test_the_prompt_is_what_the_engine_is_sent(tokenizer: Any, format: Any) -> None:
    renderer = Renderer(tokenizer, format)
    asked, _ = renderer.neutralised(CONVERSATION)
    tokens = AnswerTokens(renderer)([*CONVERSATION, ANSWER])
    assert tokens.prompt_ids == DialogueTokens(renderer).prompt_ids(asked)


def test_the_answer_continues_the_prompt_and_ends_its_turn(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer)
    tokens = AnswerTokens(renderer)([*CONVERSATION, ANSWER])
    safe, _ = renderer.neutralised(CONVERSATION)
    whole = tokenizer.apply_chat_template([*safe, ANSWER], tokenize=False)
    assert tokenizer.decode(tokens.input_ids) == whole.removesuffix("\n")
    assert tokens.answer_ids[-1] == tokenizer.eos_token_id == AnswerTokens(renderer).end_id
    assert tokens.answer_ids.count(tokenizer.eos_token_id) == 1


def test_only_the_last_answer_is_learned(tokenizer: Any) -> None:
    tokens = AnswerTokens(Renderer(tokenizer))([*CONVERSATION, ANSWER])
    assert len(tokens.labels) == len(tokens.input_ids) == len(tokens)
    assert tokens.labels == [IGNORED] * len(tokens.prompt_ids) + tokens.answer_ids


def test_a_transcript_ends_in_the_end_token(tokenizer: Any) -> None:
    tokens = AnswerTokens(Renderer(tokenizer, "transcript"))([*CONVERSATION, ANSWER])
    assert tokenizer.decode(tokens.answer_ids) == f" {ANSWER['content']}{tokenizer.eos_token}"


def test_a_template_without_an_end_gets_the_end_token(tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + (
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokens = AnswerTokens(Renderer(tokenizer, chat_template=template))([*CONVERSATION, ANSWER])
    assert tokenizer.decode(tokens.answer_ids) == f"{ANSWER['content']}{tokenizer.eos_token}"


def test_no_second_beginning_of_sequence() -> None:
    tokenizer = build_tokenizer(200)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokens = AnswerTokens(Renderer(tokenizer, chat_template=BOS_TEMPLATE))([*CONVERSATION, ANSWER])
    assert tokens.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokens.input_ids[0] == tokenizer.bos_token_id


def test_a_template_that_drops_the_answer_is_refused(tokenizer: Any) -> None:
    template = (
        "{% for m in messages if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    with pytest.raises(ConfigError, match="drops the assistant's turn"):
        AnswerTokens(Renderer(tokenizer, chat_template=template))


THINKS_ALOUD = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\\n' }}{%- endif %}", "<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)


def test_a_template_that_renders_otherwise_with_the_answer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="renders a conversation otherwise"):
        AnswerTokens(Renderer(tokenizer, chat_template=THINKS_ALOUD))


def test_an_opened_thought_is_closed(tokenizer: Any) -> None:
    thinking = ThinkingConfig(opened_by_template=True)
    tokens = AnswerTokens(Renderer(tokenizer, chat_template=THINKS_ALOUD), thinking)([*CONVERSATION, ANSWER])
    text = tokenizer.decode(tokens.input_ids)
    assert f"<think>\n\n</think>\n\n{ANSWER['content']}<|im_end|>" in text


@pytest.mark.slow
def test_the_micro_model(micro_model: Any) -> None:
    renderer = load_renderer(ModelConfig(path=str(micro_model)))
    tokens = AnswerTokens(renderer)([*CONVERSATION, ANSWER])
    asked, _ = renderer.neutralised(CONVERSATION)
    assert tokens.prompt_ids == DialogueTokens(renderer).prompt_ids(asked)
    assert tokens.answer_ids[-1] == renderer.tokenizer.eos_token_id
