from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.microworld import dialogues
from cai_ray.prompts.expansion import (
    ExpansionPrompts,
    expansion_messages,
    expansion_request,
    numbered,
    parse_requests,
)

WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8).map(
    lambda word: unicodedata.normalize("NFC", word)
)
REQUESTS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=8)


def test_the_request_in_full() -> None:
    assert expansion_request(["How do I bake?", "Tell me\n a  joke."], 3) == (
        "Here are some requests:\n\n1. How do I bake?\n2. Tell me a joke.\n\n"
        "Write 3 new requests like these, one per line."
    )


def test_the_micro_model_learns_the_default_wording() -> None:
    requests = ["How do I bake?", "Tell me a joke."]
    assert dialogues.expansion_request(requests, 4) == expansion_request(requests, 4)


def test_custom_wording() -> None:
    prompts = ExpansionPrompts(opening="Seen:", instruction="{num_new} more {please}!", system="You write {x}.")
    assert expansion_messages(["a"], 2, prompts) == [
        {"role": "system", "content": "You write {x}."},
        {"role": "user", "content": "Seen:\n\n1. a\n\n2 more {please}!"},
    ]


def test_an_instruction_must_say_how_many() -> None:
    with pytest.raises(ValidationError, match="does not say how many"):
        ExpansionPrompts(instruction="Write some more.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. How do I bake?\n2. Tell a joke.", ["How do I bake?", "Tell a joke."]),
        ("Sure! Here they are:\n\n1) One more\n(2) Two more\n\nDo you want more?", ["One more", "Two more"]),
        ("- first thing\n* second thing\n• third thing", ["first thing", "second thing", "third thing"]),
        ('1. **Bold ask**\n**2.** "Quoted ask"\n3. \u201cCurly\u201d', ["Bold ask", "Quoted ask", "Curly"]),
        ("1. a request that\n   goes on\n2. another", ["a request that goes on", "another"]),
        ("Here are four:\nfirst one\nsecond one", ["first one", "second one"]),
        ("3 eggs are how many?\n1.5 litres of milk, please", ["3 eggs are how many?", "1.5 litres of milk, please"]),
        ('1. Say "hi" and "bye"', ['Say "hi" and "bye"']),
        ("1. 2. twice", ["2. twice"]),
        ("1.\n2. ...\n3. \u2014", []),
        ("", []),
        ("Sure, here you go:", []),
        ("1. cafe\u0301", ["caf\u00e9"]),
    ],
)
def test_parse(text: str, expected: list[str]) -> None:
    assert parse_requests(text) == expected


@given(REQUESTS)
def test_what_was_listed_is_read_back(requests: list[str]) -> None:
    assert parse_requests(numbered(requests)) == requests


@given(REQUESTS, st.sampled_from(["- {}", "* {}", "{}", '- "{}"', "  - **{}**"]))
def test_other_lists_are_read_back(requests: list[str], style: str) -> None:
    assert parse_requests("\n".join(style.format(request) for request in requests)) == requests


@given(REQUESTS, st.sampled_from(["Sure, here are some new ones:", "Certainly!"]))
def test_talk_around_a_numbered_list_is_left_out(requests: list[str], talk: str) -> None:
    assert parse_requests(f"{talk}\n\n{numbered(requests)}\n\n{talk}") == requests


@given(st.text())
def test_any_text_gives_clean_lines(text: str) -> None:
    for request in parse_requests(text):
        assert request == " ".join(request.split()) and request
        assert any(character.isalnum() for character in request)
