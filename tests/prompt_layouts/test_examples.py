"""Every layout of examples gives a conversation that ends in the answer to learn, or a reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import messages_to_transcript
from cai_ray.dropped import DropReason
from cai_ray.prompt_layouts.examples import EXAMPLES
from tests.prompt_layouts.test_pairs import PROMPT, THIS, Q, read, said

TOLD = [*PROMPT, THIS]
SHAREGPT = [{"from": "gpt" if turn["role"] == "assistant" else "human", "value": turn["content"]} for turn in TOLD]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TOLD},
        {"conversations": SHAREGPT},
        {"transcript": messages_to_transcript(TOLD)},
        {"prompt": PROMPT, "completion": [THIS]},
        {"prompt": PROMPT, "response": " This. "},
        {"chosen": messages_to_transcript(TOLD), "rejected": messages_to_transcript([*PROMPT, said("That.")])},
        {"prompt": PROMPT, "chosen": [THIS], "rejected": [said("That.")]},
    ],
    ids=["messages", "sharegpt", "transcript", "trl", "response", "hh_rlhf", "preference"],
)
def test_layouts(record: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, [record], EXAMPLES) == [(0, TOLD)]


def test_an_instruction_with_its_input(tmp_path: Path) -> None:
    records = [{"instruction": "Translate.", "input": given, "output": "Bonjour."} for given in ("Hello.", "")]
    asked = [one[0]["content"] for _, one in read(tmp_path, records, EXAMPLES)]
    assert asked == ["Translate.\n\nHello.", "Translate."]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": PROMPT}, DropReason.MALFORMED),
        ({"messages": [said("alone")]}, DropReason.MALFORMED),
        ({"messages": [*Q, said(" ")]}, DropReason.EMPTY),
        ({"messages": None}, DropReason.NULL),
        ({"prompt": "Q", "completion": 3}, DropReason.NOT_TEXT),
        ({"prompt": "Q", "completion": ""}, DropReason.EMPTY),
    ],
)
def test_no_example(record: dict[str, Any], reason: DropReason, tmp_path: Path) -> None:
    assert read(tmp_path, [record], EXAMPLES) == [(0, reason)]
