"""What a format writes itself is defused in contents: parsing a prompt gives back exactly the turns that went in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.chat import FINISHED
from cai_ray.markup import THINK_MARKS, TRANSCRIPT, Markup, defuse_labels, neutralise
from tests.prompt_formats import FORMATS

RENDERERS = {name: made.renderer() for name, made in FORMATS.items()}
MARKS = [
    "<think>", "</think>", "<tool_response>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### Instruction:",
    "### Response:", "USER:", "ASSISTANT:", "<|im_start|>user\n", "<|im_end|>", "</s>", "<s>", "<start_of_turn>model\n",
    "<end_of_turn>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>\n\n", *TRANSCRIPT,
]  # fmt: skip
SHARDS = st.sampled_from([*MARKS, "\n", "\n\n", " ", "Hu", "man:", "<", "|", ">", "[", "]", "oak", ":", "#"])
CONTENTS = st.lists(SHARDS | st.text(max_size=4), min_size=1, max_size=8).map("".join).filter(lambda text: text.strip())


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=120, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=5), with_system=st.booleans())
def test_a_prompt_parses_back_to_its_turns(name: str, contents: list[str], with_system: bool) -> None:
    roles = (["system"] if with_system else []) + ["user", "assistant"] * 3
    turns = list(zip(roles, contents, strict=False))
    if turns[-1][0] != "user":
        turns = turns[:-1] if len(turns) > 1 and turns[-2][0] == "user" else [*turns, ("user", "And?")]
    renderer = RENDERERS[name]
    messages = [{"role": role, "content": content} for role, content in turns]
    safe, count = renderer.neutralised(messages)
    expected = [(m["role"], m["content"].strip()) for m in safe]
    if renderer.system_role == "fold" and with_system:
        expected = [("user", f"{safe[0]['content']}\n\n{safe[1]['content']}".strip()), *expected[2:]]
    found = FORMATS[name].parse(renderer.text(safe))
    if name == "qwen2" and not with_system:
        assert found.pop(0) == ("system", "You help.")
    assert found == [(role, content) for role, content in expected if content]
    assert (count == 0) == (safe == messages)
    for before, after in zip(messages, safe, strict=True):
        assert re.sub(" ", "", before["content"]) == re.sub(" ", "", after["content"])
    assert renderer.neutralised(safe) == (safe, 0)


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_without_markup_stays_as_it_is(name: str) -> None:
    text = "Compare (A) and (B):\n1. <b>oak</b>: tall\n# Trees\nuser: human, all too human: yes\n[1] a < b > c"
    messages = [{"role": "user", "content": text}]
    assert RENDERERS[name].neutralised(messages) == (messages, 0)


def test_what_is_found_in_templates() -> None:
    assert {"[INST]", "[/INST]"} <= set(RENDERERS["mistral"].markup.tokens)
    assert {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"} <= set(RENDERERS["llama2"].markup.tokens)
    assert {"<think>", "</think>", "<tool_response>"} <= set(RENDERERS["qwen3"].markup.tokens)
    assert {"<|im_start|>", "<|im_end|>"} <= set(RENDERERS["chatml as plain text"].markup.tokens)
    assert set(RENDERERS["alpaca"].markup.labels) == {"### Instruction:", "### Response:"}
    assert {"USER:", "ASSISTANT:"} <= {*RENDERERS["vicuna"].markup.inline_labels}
    for name in ("llama", "qwen2", "gemma2", "chatml"):
        markup = RENDERERS[name].markup
        assert markup == Markup(RENDERERS[name].special_tokens), name


def test_labels_get_a_space() -> None:
    assert defuse_labels("a\n\nHuman: b\n  Critique: c; Human: d", TRANSCRIPT) == (
        "a\n\nHuman : b\n  Critique : c; Human: d", 2,
    )  # fmt: skip
    assert defuse_labels("### Instruction\n### Instructions", ["### Instruction"]) == (
        "# ## Instruction\n### Instructions", 1,
    )  # fmt: skip
    assert defuse_labels("hi USER: do", ["USER:"], inline=True) == ("hi USER : do", 1)


def test_a_template_that_takes_no_probe_has_its_control_tokens_only() -> None:
    renderer = FORMATS["chatml"].renderer(chat_template="{{ raise_exception('no') }}")
    assert renderer.markup == Markup(renderer.special_tokens)


def test_finished_turns_are_defused_too() -> None:
    renderer = FORMATS["chatml"].renderer()
    safe, count = renderer.neutralised([{"role": FINISHED, "content": "<|im_end|>"}])
    assert (safe, count) == ([{"role": FINISHED, "content": "< |im_end|>"}], 1)


def test_think_marks_are_pairs() -> None:
    assert all(neutralise(opened, [opened])[1] == 1 and opened != closed for opened, closed in THINK_MARKS)
