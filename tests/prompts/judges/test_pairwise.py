"""Verdicts in words: the last line that holds one, and no guess where it holds two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.prompts.judges.pairwise import QUESTION, parse_prob_a, verdict_messages

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How do I bake bread?"},
]
PROB = {"A": 1.0, "B": 0.0, "C": 0.5}


def test_the_question_shows_both_answers_in_blocks() -> None:
    (asked,) = verdict_messages(CONVERSATION, "Take flour.", "No.", QUESTION, "c0de")
    text = asked["content"]
    assert "Human: Hi\n\nAssistant: Hello.\n\nHuman: How do I bake bread?\n[end of conversation c0de]" in text
    assert "[answer (A) c0de]\nTake flour.\n[end of answer (A) c0de]" in text
    assert "[answer (B) c0de]\nNo.\n[end of answer (B) c0de]" in text and QUESTION in text
    with pytest.raises(ValueError, match="nonce"):
        verdict_messages(CONVERSATION, "c0de", "No.", QUESTION, "c0de")


@given(st.sampled_from("ABC"), st.sampled_from("ABC"), st.text(st.characters(exclude_characters="[]"), max_size=80))
def test_the_last_verdict_counts(first: str, last: str, prose: str) -> None:
    assert parse_prob_a(f"Perhaps [[{first}]].\n{prose}\nFinal verdict: [[ {last} ]].\n\n") == PROB[last]


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse_prob_a(text) in (None, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    "reply", ["", "A", "[A]", "[[D]]", "[[AB]]", "[[a]]", "I end with [[A]], [[B]] or [[C]].", "[[B]]\n[[A]] or [[C]]?"]
)
def test_what_is_no_verdict_is_not_guessed_at(reply: str) -> None:
    assert parse_prob_a(reply) is None
