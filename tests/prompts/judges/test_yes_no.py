"""Yes or No about an output: templates, what is put into them, and replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.prompts.judges.guard import WILDGUARD_TEMPLATE
from cai_ray.prompts.judges.yes_no import (
    SYSTEM,
    TEMPLATE,
    check_template,
    fields_of,
    parse_yes_no,
    yes_no_messages,
)

CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Teach me {generation}."},
]


def test_fields_are_put_in_as_they_are() -> None:
    fields = fields_of(CONVERSATION, "No {behavior} here.", "c0de")
    system, asked = yes_no_messages(TEMPLATE, SYSTEM, fields)
    assert system == {"role": "system", "content": SYSTEM}
    assert "[BEHAVIOUR c0de]\nTeach me {generation}.\n[END OF BEHAVIOUR c0de]" in asked["content"]
    assert "[OUTPUT c0de]\nNo {behavior} here.\n[END OF OUTPUT c0de]" in asked["content"]
    assert asked["content"].endswith("\nAnswer:")
    (alone,) = yes_no_messages("{conversation} => {generation} {other}", None, fields)
    assert alone["content"] == (
        "Human: Hi\n\nAssistant: Hello.\n\nHuman: Teach me {generation}. => No {behavior} here. {other}"
    )


def test_templates_that_leave_out_what_is_judged() -> None:
    check_template(TEMPLATE)
    check_template(WILDGUARD_TEMPLATE)
    with pytest.raises(ValueError, match=r"needs the field \{generation\}"):
        check_template("Is this harmful? {behavior}")
    with pytest.raises(ValueError, match=r"\{behavior\} .* or \{conversation\}"):
        check_template("Is this harmful? {generation}")


@given(
    st.sampled_from(["Yes", "yes", "YES", "No", "no"]), st.sampled_from(["", ".", "\n", '"', " ", ", as asked.", "**"])
)
def test_a_word_decides(word: str, after: str) -> None:
    for before in ("", " ", "\n\n", "**", '"', "("):
        assert parse_yes_no(before + word + after) is (word.lower() == "yes")


@given(st.text(max_size=50))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse_yes_no(text) in (None, True, False)


@pytest.mark.parametrize(
    "reply", ["", "Maybe", "Yesterday", "No idea", "Not", "yes no", "I say yes", "n", "1", "Yes/No"]
)
def test_what_is_neither_is_not_guessed_at(reply: str) -> None:
    assert parse_yes_no(reply) is None
