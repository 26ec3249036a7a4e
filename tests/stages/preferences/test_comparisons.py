"""Labels and human choices become training pairs, each comparison exactly once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.rows import TRAINING_PAIR
from cai_ray.stages.pair_files import times_seen
from cai_ray.stages.preferences.comparisons import (
    Comparison,
    PairOptions,
    comparisons,
    input_identity,
    split_of,
    training_pair,
)
from cai_ray.stages.preferences.pair_sources import HelpfulPairsConfig

QUESTION = [{"role": "user", "content": "How do I bake bread?"}]


def letters(messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """An encoder that needs no model: one token per letter."""
    return [ord(letter) for message in messages for letter in message["content"]], [ord(letter) for letter in answer]


def label(**changes: Any) -> dict[str, Any]:
    """What is read of a Preference row."""
    row = {
        "pair_id": "p/0-1",
        "prompt_id": "p",
        "messages": QUESTION,
        "chosen": "Knead it.",
        "rejected": "No.",
        "prob_chosen": 0.8,
        "split": "train",
    }
    return {**row, **changes}


def settled(row: dict[str, Any], options: PairOptions, max_length: int = 100) -> dict[str, Any]:
    (comparison,) = comparisons(options, [row], 0)
    return training_pair(comparison, options, letters, max_length, 0)


def test_a_label_becomes_a_training_pair() -> None:
    row = settled(label(), PairOptions(eval_fraction=0, ai_weight=0.5))
    assert row["prompt"] == QUESTION
    assert row["chosen"] == [{"role": "assistant", "content": "Knead it."}]
    assert (row["prob_chosen"], row["label_source"], row["weight"], row["split"]) == (0.8, "ai", 0.5, "train")
    assert (row["prompt_tokens"], row["rejected_tokens"]) == letters(QUESTION, "No.")
    pa.Table.from_pylist([row], TRAINING_PAIR)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": "  "}, DropReason.EMPTY_RESPONSE),
        ({"rejected": "<think>only this</think>"}, DropReason.EMPTY_RESPONSE),
        ({"rejected": "<think>never closed"}, DropReason.EMPTY_RESPONSE),
        ({"rejected": " Knead it. "}, DropReason.IDENTICAL),
        ({"chosen": "<think>hm</think>No."}, DropReason.IDENTICAL),
        ({"chosen": "Knead. " * 20}, DropReason.TOO_LONG),
    ],
)
def test_pairs_that_cannot_be_learned_are_dropped(changes: dict[str, Any], reason: DropReason) -> None:
    with pytest.raises(DropRow) as drop:
        settled(label(**changes), PairOptions())
    assert drop.value.reason is reason
    assert "Knead" not in drop.value.detail


def test_thinking_is_never_scored() -> None:
    row = settled(label(chosen="<think>Bread needs kneading.</think>\nKnead it."), PairOptions())
    assert row["chosen"][0]["content"] == "Knead it."


def test_length_is_of_prompt_and_the_longer_answer() -> None:
    length = len(QUESTION[0]["content"]) + len("Knead it.")
    settled(label(), PairOptions(), max_length=length)
    with pytest.raises(DropRow, match=f"take {length} tokens, max_length is {length - 1}"):
        settled(label(), PairOptions(), max_length=length - 1)


def human(path: Path, records: list[Any], **options: Any) -> list[Comparison]:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return list(comparisons(PairOptions(helpful_pairs=(HelpfulPairsConfig(path=str(path), **options),)), [], 0))


def test_human_pairs(tmp_path: Path) -> None:
    good = {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}
    found = human(
        tmp_path / "helpful.jsonl", [good, {"prompt": None, "chosen": "a", "rejected": "b"}, good], weight=2.5
    )
    assert [c.pair_id for c in found] == ["helpful:0", "helpful:1", "helpful:2"]
    assert [c.problem and c.problem.reason for c in found] == [None, DropReason.NULL, None]
    assert {(c.prob_chosen, c.label_source, c.weight) for c in found} == {(1.0, "human", 2.5)}
    assert found[0].prompt_id == found[2].prompt_id
    with pytest.raises(DropRow) as drop:
        training_pair(found[1], PairOptions(), letters, 100, 0)
    assert drop.value.reason is DropReason.NULL


def test_a_limit_and_a_test_set(tmp_path: Path) -> None:
    records = [{"prompt": f"Why {k}?", "chosen": "Because.", "rejected": "No idea."} for k in range(250)]
    found = human(tmp_path / "h.jsonl", records, limit=130, split="test")
    assert len(found) == 130 and all(c.is_test for c in found)


def test_a_set_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"h\.jsonl: layout chosen_rejected needs a column for 'chosen'"):
        human(tmp_path / "h.jsonl", [{"prompt": "only"}])


def test_micro_world_pairs() -> None:
    options = PairOptions(helpful_pairs=(HelpfulPairsConfig(num_pairs=100),))
    found = list(comparisons(options, [label()], 3))
    assert Counter(c.label_source for c in found) == {"ai": 1, "human": 100}
    assert found == list(comparisons(options, [label()], 3)) != list(comparisons(options, [label()], 4))
    assert sum(c.is_test for c in found) == 20
    assert len({c.pair_id for c in found}) == 101


def at(prompt: str, is_test: bool = False, prompt_id: str = "x") -> Comparison:
    messages = [{"role": "user", "content": prompt}]
    return Comparison("id", prompt_id, messages, "a", "b", 1.0, "ai", 1.0, is_test)


def test_splits_are_by_prompt_and_seed() -> None:
    splits = [split_of(at(str(k)), 0.3, 0) for k in range(1000)]
    assert 250 < splits.count("eval") < 350
    assert splits != [split_of(at(str(k)), 0.3, 1) for k in range(1000)]
    # The same words from another set are on the same side.
    assert splits == [split_of(at(f" {k} ", prompt_id="y"), 0.3, 0) for k in range(1000)]
    assert split_of(at("1", is_test=True), 0.0, 0) == "eval" and split_of(at("1"), 0.0, 0) == "train"


@given(st.floats(0.01, 5), st.integers(0, 100))
def test_a_weight_is_the_expected_number_of_times(weight: float, seed: int) -> None:
    times = [times_seen(str(k), weight, seed) for k in range(200)]
    assert set(times) <= {int(weight), int(weight) + 1}
    assert abs(sum(times) / 200 - weight) < 0.2


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"num_pairs is for path .microworld."):
        HelpfulPairsConfig(path="some.jsonl", num_pairs=3)
    with pytest.raises(ValidationError, match=r"two of helpful_pairs are called 'a'"):
        PairOptions(helpful_pairs=(HelpfulPairsConfig(path="x/a.jsonl"), HelpfulPairsConfig(path="y/a.jsonl.gz")))


def test_another_file_is_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    options = PairOptions(helpful_pairs=(HelpfulPairsConfig(path=str(path)), HelpfulPairsConfig()))
    path.write_text("a")
    first = input_identity(options)
    path.write_text("ab")
    assert first == {"h": [["h.jsonl", 1]], "microworld": []}
    assert input_identity(options) != first
