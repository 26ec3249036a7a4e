"""The multiple-choice layout: made-up records, and the published file where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.multiple_choice import deciding_parts, parse_item, read_items
from tests.published import published

RECORD: dict[str, Any] = {
    "prompt": "\n\nConsider:\n\nHuman: Tea?\n\nOptions:\n (A) [[[Yes, please.]]]\n (B) [[[No.]]]\n\nThe answer is:",
    "corrects": [" (A)"],
    "incorrects": [" (B)"],
    "text_correct": "\n\nHuman: Tea?\n\nAssistant: Yes, please.",
    "text_incorrect": "\n\nHuman: Tea?\n\nAssistant: No.",
}


def test_a_record_becomes_an_item() -> None:
    item = parse_item(RECORD)
    assert item.prompt == RECORD["prompt"]
    assert item.options == (" (A)", " (B)")
    assert item.conversation == ({"role": "user", "content": "Tea?"},)
    assert (item.text_correct, item.text_incorrect) == ("Yes, please.", "No.")
    assert item.category is None
    assert item.first_is_correct
    swapped = parse_item(RECORD | {"corrects": [" (B)"], "incorrects": [" (A)"], "category": "drinks"})
    assert not swapped.first_is_correct
    assert swapped.item_id != item.item_id
    assert swapped.cluster == item.cluster
    assert swapped.category == "drinks"


def test_a_conversation_of_several_turns_is_what_both_answers_reply_to() -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?"
    texts = {"text_correct": f"{before}\n\nAssistant: Yes.", "text_incorrect": f"{before}\n\nAssistant: No.\n\nReally."}
    item = parse_item(RECORD | texts)
    assert [m["content"] for m in item.conversation] == ["Hi", "Hello.", "Tea?"]
    assert item.text_incorrect == "No.\n\nReally."


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": None}, "'prompt' must be text"),
        ({"prompt": " \n"}, "'prompt' must be text"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"corrects": []}, "at least one option"),
        ({"incorrects": " (B)"}, "must be a list"),
        ({"incorrects": [" (A)"]}, "given twice"),
        ({"text_correct": "Yes, please."}, "no transcript"),
        ({"text_correct": "\n\nAssistant: Yes."}, "must end in an answer"),
        ({"text_correct": "\n\nHuman: Tea?"}, "must end in an answer"),
        ({"text_correct": "\n\nHuman: Tea?\n\nAssistant: "}, "empty answer"),
        ({"text_correct": "\n\nHuman: Milk?\n\nAssistant: Yes."}, "same conversation"),
    ],
)
def test_a_record_that_is_none_says_why(change: dict[str, Any], why: str) -> None:
    with pytest.raises(DropRow, match=why) as caught:
        parse_item(RECORD | change)
    assert caught.value.reason == DropReason.MALFORMED


@pytest.mark.parametrize(
    ("options", "lead", "parts"),
    [
        ([" (A)", " (B)"], " (", ["A", "B"]),
        ([" yes", " no"], "", [" yes", " no"]),
        ([" A", " B", " C"], "", [" A", " B", " C"]),
        (["(gold).", "(cold)."], "(", ["gold", "cold"]),
    ],
)
def test_what_decides_between_options(options: list[str], lead: str, parts: list[str]) -> None:
    assert deciding_parts(options) == (lead, parts)


@pytest.mark.parametrize("options", [[" (A)", " [B]"], [" (A)", " B"], [" (A)", " (B"], ["?", "!"]])
def test_options_that_differ_in_more_than_a_word_are_malformed(options: list[str]) -> None:
    with pytest.raises(DropRow, match="same punctuation"):
        deciding_parts(options)


def test_a_file_is_read_and_what_is_no_item_is_told(tmp_path: Path) -> None:
    other = RECORD | {"prompt": "Another one?\n\nThe answer is:"}
    lines = [json.dumps(RECORD), "{", json.dumps(RECORD), json.dumps({"prompt": "x"}), json.dumps(other)]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(lines))
    items, drops = read_items(str(path))
    assert [item.prompt for item in items] == [RECORD["prompt"], other["prompt"]]
    assert [(number, str(drop.reason)) for number, drop in drops] == [
        (1, "malformed"),
        (2, "duplicate"),
        (3, "malformed"),
    ]
    items, drops = read_items(str(path), limit=3)
    assert (len(items), len(drops)) == (1, 2)
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ConfigError, match=r"no multiple-choice item; record 0 is malformed: 'corrects'"):
        read_items(str(path))


def test_the_published_file() -> None:
    items, drops = read_items(str(published("cai_paper/438HHHEvaluations.jsonl")))
    assert (len(items), len(drops)) == (438, 0)
    assert len({item.cluster for item in items}) == 188
    assert {deciding_parts(sorted(item.options)) == (" (", ["A", "B"]) for item in items} == {True}
    for item in items:
        assert f"[[[{item.text_correct}]]]" in item.prompt
        assert f"[[[{item.text_incorrect}]]]" in item.prompt
