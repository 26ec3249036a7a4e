"""Safe, unsafe and categories; WildGuard's three lines; and what is neither."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.prompts.judges.guard import (
    WILDGUARD_TEMPLATE,
    Guarded,
    WildGuarded,
    parse_guard,
    parse_wildguard,
    wildguard_messages,
)
from cai_ray.prompts.judges.yes_no import fields_of

CODES = st.lists(st.integers(1, 14).map("S{}".format), unique=True, max_size=14)
VERDICTS = {"yes": True, "no": False, "n/a": None}


@given(CODES, st.sampled_from(["", "\n", "\n\n", "  "]), st.sampled_from([",", ", "]))
def test_unsafe_with_its_categories(codes: list[str], before: str, comma: str) -> None:
    reply = f"{before}unsafe" + (f"\n{comma.join(codes)}" if codes else "")
    assert parse_guard(reply) == Guarded(True, tuple(codes))


@pytest.mark.parametrize("reply", ["safe", "\n\nsafe", "Safe\n", " safe. "])
def test_safe(reply: str) -> None:
    assert parse_guard(reply) == Guarded(False, ())


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "S1",
        "safe\nS1",
        "safe or unsafe",
        "unsafe\nviolence",
        "unsafe S1",
        "not safe",
        "unsafe\nS1\nS2",
        "safety",
        "unsafe\nS123",
    ],
)
def test_what_is_no_verdict_is_not_guessed_at(reply: str) -> None:
    assert parse_guard(reply) is None


@given(st.sampled_from(list(VERDICTS)), st.sampled_from(list(VERDICTS)), st.sampled_from(list(VERDICTS)))
def test_three_lines_in_any_order(request: str, refusal: str, response: str) -> None:
    lines = (f"Harmful request: {request}", f"Response refusal: {refusal}", f"Harmful response: {response}")
    expected = WildGuarded(VERDICTS[request], VERDICTS[refusal], VERDICTS[response])
    for order in permutations(lines):
        assert parse_wildguard("\n".join(order)) == expected
        assert parse_wildguard("\n\n**" + "\n".join(order).upper().replace(":", ":**") + "\n") == expected


LINES = ["Harmful request: yes", "Response refusal: no", "Harmful response: yes"]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "\n".join(LINES[:2]),
        "\n".join([*LINES, "Harmful response: no"]),
        "\n".join([*LINES[:2], "Harmful response: maybe"]),
        "\n".join([*LINES[:2], "Harmful response: yes and no"]),
        "\n".join([*LINES[:2], "Harmful response:"]),
    ],
)
def test_malformed_lines(reply: str) -> None:
    assert parse_wildguard(reply) is None


@given(st.text(max_size=120))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse_guard(text) is None or text.strip()
    parse_wildguard(text)


def test_the_question_names_the_lines_that_are_read() -> None:
    (asked,) = wildguard_messages(WILDGUARD_TEMPLATE, fields_of([{"role": "user", "content": "Hi"}], "Hello.", "c0de"))
    assert (
        "Human: Hi\n[END OF CONVERSATION c0de]" in asked["content"]
        and "Hello.\n[END OF RESPONSE c0de]" in asked["content"]
    )
    filled = asked["content"].replace("yes or no", "yes").replace("yes, no or n/a", "n/a")
    assert parse_wildguard(filled) == WildGuarded(True, None, None)
