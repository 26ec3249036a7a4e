"""Values are checked with exact reasons; turns become a conversation that ends in the user."""

from __future__ import annotations

from typing import Any

import pytest

from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.records import Fields, conversation, text_of


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, DropReason.NULL),
        (float("nan"), DropReason.NULL),
        ("", DropReason.EMPTY),
        (" \n\u200b\u00a0", DropReason.EMPTY),
        (3, DropReason.NOT_TEXT),
        (2.5, DropReason.NOT_TEXT),
        (True, DropReason.NOT_TEXT),
        (["a"], DropReason.NOT_TEXT),
        ({"a": 1}, DropReason.NOT_TEXT),
        ("a\ud800", DropReason.NOT_UTF8),
        (b"caf\xe9", DropReason.NOT_UTF8),
    ],
)
def test_what_is_no_text_is_dropped_for_its_reason(value: Any, reason: DropReason) -> None:
    with pytest.raises(DropRow) as caught:
        text_of(value, "prompt")
    assert caught.value.reason == reason


def test_text_becomes_nfc_stripped_and_lf() -> None:
    assert text_of("  cafe\u0301\r\nau lait \n", "prompt") == "café\nau lait"
    assert text_of("café".encode(), "prompt") == "café"
    assert text_of("NA", "prompt") == "NA"
    assert text_of(" ", "prompt", may_be_empty=True) == ""


def test_a_missing_column_is_malformed_and_an_optional_one_is_none() -> None:
    fields = Fields({"p": "x"}, {"prompt": "q", "category": "c", "id": None})
    with pytest.raises(DropRow) as caught:
        fields.text("prompt")
    assert caught.value.reason == DropReason.MALFORMED
    assert fields.label("category") is None
    assert fields.label("id") is None


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (" a ", "a"),
        (7, "7"),
        ("", None),
        (None, None),
        (float("nan"), None),
        ({"x": True, "y": False, "z": True}, "x,z"),
    ],
)
def test_labels(value: Any, label: str | None) -> None:
    assert Fields({"c": value}, {"category": "c"}).label("category") == label


def test_a_conversation_ends_in_the_user() -> None:
    good = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Tea?"))
    assert conversation(good) == good
    with pytest.raises(DropRow) as caught:
        conversation(good[:3])
    assert caught.value.reason == DropReason.ENDS_IN_ASSISTANT
    assert conversation(good[:3], cut_final_answer=True) == good[:2]


def test_two_turns_of_one_speaker_are_one() -> None:
    written = turns(("user", "Hi"), ("user", "Tea?"), ("assistant", "Yes"), ("assistant", "Now"), ("user", "Thanks"))
    assert conversation(written) == turns(("user", "Hi\n\nTea?"), ("assistant", "Yes\n\nNow"), ("user", "Thanks"))


def test_an_empty_system_message_is_left_out() -> None:
    assert conversation(turns(("system", ""), ("user", "Hi"))) == turns(("user", "Hi"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], DropReason.MALFORMED),
        (turns(("system", "x")), DropReason.MALFORMED),
        (turns(("assistant", "x"), ("user", "y")), DropReason.MALFORMED),
        (turns(("user", "x"), ("system", "y"), ("user", "z")), DropReason.MALFORMED),
        (turns(("user", "")), DropReason.EMPTY),
        (turns(("user", "x"), ("assistant", ""), ("user", "y")), DropReason.EMPTY),
    ],
)
def test_a_bad_conversation_is_dropped_for_its_reason(bad: list[dict[str, str]], reason: DropReason) -> None:
    with pytest.raises(DropRow) as caught:
        conversation(bad)
    assert caught.value.reason == reason
