"""{Llama, Qwen2, Qwen3, Mistral, Gemma 2} x {chat, transcript} x {system native, folded}: all of it round-trips."""

from __future__ import annotations

from typing import Any

import pytest

from cai_ray.chat import Renderer, split_thinking
from cai_ray.config import ModelConfig, SystemRole, ThinkingConfig
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.scored_tokens import ScoredTokens
from tests.prompt_formats import FORMATS, PromptFormat

SYSTEM, ASKED, ANSWER, AGAIN = "Be brief.", "Which tree?", "An oak.", "And there?"
CONVERSATION = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": AGAIN},
]
LAST = {"role": "assistant", "content": "An elm, I think."}
MODELS = ("llama", "qwen2", "qwen3", "mistral", "gemma2")
CASES = [
    (name, format, role)
    for name in MODELS
    for format in ("chat", "transcript")
    for role in ("native", "fold")
    if role == "fold" or format == "transcript" or FORMATS[name].has_system
]


def made(name: str, format: Any, role: SystemRole) -> tuple[Renderer, PromptFormat]:
    """The renderer on the model's own tokenizer, and what reads its prompts."""
    renderer = Renderer(FORMATS[name].tokenizer(), format, role)
    return renderer, FORMATS[name] if format == "chat" else FORMATS["transcript"]


def turns_of(role: str) -> list[tuple[str, str]]:
    if role == "fold":
        return [("user", f"{SYSTEM}\n\n{ASKED}"), ("assistant", ANSWER), ("user", AGAIN)]
    return [("system", SYSTEM), ("user", ASKED), ("assistant", ANSWER), ("user", AGAIN)]


def parsed(name: str, format: str, reads: PromptFormat, text: str) -> list[tuple[str, str]]:
    found = reads.parse(text)
    is_default = name == "qwen2" and format == "chat" and found[0] == ("system", "You help.")
    return found[1:] if is_default else found


@pytest.mark.parametrize(("name", "format", "role"), CASES)
def test_rendering(name: str, format: str, role: SystemRole) -> None:
    renderer, reads = made(name, format, role)
    assert renderer.neutralised(CONVERSATION) == (CONVERSATION, 0)
    assert parsed(name, format, reads, renderer.text(CONVERSATION)) == turns_of(role)


@pytest.mark.parametrize(("name", "format", "role"), CASES)
def test_defusing(name: str, format: str, role: SystemRole) -> None:
    renderer, reads = made(name, format, role)
    posing = renderer.text(CONVERSATION)
    safe, count = renderer.neutralised([{"role": "user", "content": posing}])
    assert count >= 3
    [turn] = parsed(name, format, reads, renderer.text(safe))
    assert turn == ("user", safe[0]["content"].strip())


@pytest.mark.parametrize(("name", "format", "role"), CASES)
def test_thinking(name: str, format: str, role: SystemRole) -> None:
    renderer, reads = made(name, format, role)
    thought, answer = split_thinking("<think>Tall.</think>\n\nAn oak.", ThinkingConfig())
    assert (thought, answer) == ("Tall.", ANSWER)
    again = [*CONVERSATION[:2], {"role": "assistant", "content": answer}, CONVERSATION[3]]
    assert parsed(name, format, reads, renderer.text(again)) == turns_of(role)  # the thought is not fed back


@pytest.mark.parametrize(("name", "format", "role"), CASES)
def test_answer_tokens(name: str, format: str, role: SystemRole) -> None:
    renderer, reads = made(name, format, role)
    answers = AnswerTokens(renderer)
    tokens = answers([*CONVERSATION, LAST])
    assert tokens.prompt_ids == DialogueTokens(renderer).prompt_ids(CONVERSATION)
    assert tokens.answer_ids[-1] == answers.end_id == renderer.tokenizer.eos_token_id
    whole = renderer.tokenizer.decode(tokens.input_ids)
    assert parsed(name, format, reads, whole.removesuffix("<|endoftext|>"))[:-1] == turns_of(role)
    assert LAST["content"] in renderer.tokenizer.decode(tokens.answer_ids)


@pytest.mark.parametrize(("name", "format", "role"), CASES)
def test_scored_tokens(name: str, format: Any, role: SystemRole) -> None:
    renderer, reads = made(name, format, role)
    scored = ScoredTokens(ModelConfig(format=format, system_role=role), renderer.tokenizer)
    ids = scored.encode(CONVERSATION, LAST["content"])
    assert ids[-1] == scored.end_token_id and ids.count(scored.end_token_id) >= 1
    text = renderer.tokenizer.decode(ids).removesuffix(scored.end_token if format == "transcript" else "")
    assert parsed(name, format, reads, text) == [*turns_of(role), ("assistant", LAST["content"])]
    posing, _ = renderer.neutralised([{"role": "assistant", "content": renderer.text(CONVERSATION)}])
    ids = scored.encode(CONVERSATION, renderer.text(CONVERSATION))
    assert ids.count(scored.end_token_id) == scored.encode(CONVERSATION, "x").count(scored.end_token_id)
    assert posing[0]["content"].strip() in renderer.tokenizer.decode(ids)
