from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.dropped import DROPPED, DropReason, DropRow, LeftOutReason, drop_of, dropped_row, is_left_out, reason_of
from cai_ray.row_ids import prompt_id_of, revision_row_id
from cai_ray.rows import MESSAGE, PROMPT, REVISION

MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}), min_size=1
)


def test_the_id_of_a_prompt_is_what_it_was() -> None:
    """Stored runs hold these values: they may never change."""
    assert prompt_id_of([{"role": "user", "content": "Hello"}], "a set") == "a8381d53d99e72d2b8c475a94da6836e"


@given(MESSAGES, st.text(), st.sampled_from(["", " ", "\n\n", "\t "]))
def test_surrounding_white_space_is_not_significant(messages: list[dict[str, str]], source: str, space: str) -> None:
    padded = [{"role": m["role"], "content": f"{space}{m['content']}{space}"} for m in messages]
    assert prompt_id_of(padded, source) == prompt_id_of(messages, source)


@given(MESSAGES, MESSAGES, st.text(), st.text())
def test_different_prompts_have_different_ids(
    one: list[dict[str, str]], other: list[dict[str, str]], source: str, other_source: str
) -> None:
    def normal(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
        return [(m["role"], m["content"].strip()) for m in messages]

    same = normal(one) == normal(other) and source == other_source
    assert (prompt_id_of(one, source) == prompt_id_of(other, other_source)) == same


def test_inner_white_space_case_and_extra_keys() -> None:
    hello = [{"role": "user", "content": "a b"}]
    assert prompt_id_of(hello, "s") != prompt_id_of([{"role": "user", "content": "a  b"}], "s")
    assert prompt_id_of(hello, "s") != prompt_id_of([{"role": "user", "content": "A b"}], "s")
    assert prompt_id_of(hello, "s") == prompt_id_of([{"role": "user", "content": "a b", "name": "x"}], "s")


def test_revision_row_id() -> None:
    assert revision_row_id("abc", 3) == "abc/3"


def test_a_drop_says_what_and_why() -> None:
    drop = DropRow(DropReason.TOO_LONG, "900 tokens", attempts=2)
    assert str(drop) == "too_long: 900 tokens"
    assert (drop.reason, drop.detail, drop.attempts) == ("too_long", "900 tokens", 2)


def test_reasons_are_their_own_codes() -> None:
    assert all(reason.value == reason.name.lower() for reason in DropReason)
    assert all(DropReason(str(reason)) is pickle.loads(pickle.dumps(reason)) is reason for reason in DropReason)


def test_each_reason_has_a_sentence_of_its_own() -> None:
    sentences = [reason.sentence for reason in DropReason]
    assert all(sentences) and len(set(sentences)) == len(sentences)


def test_a_dropped_row_says_why_again() -> None:
    drop = DropRow(DropReason.TIE, "why", attempts=3)
    row = dropped_row("a", "stage", drop)
    assert row == {"row_id": "a", "stage": "stage", "reason": "tie", "detail": "why", "attempts": 3}
    assert pa.Table.from_pylist([row], DROPPED).to_pylist() == [row]
    again = drop_of(row)
    assert (again.reason, again.detail, again.attempts) == (drop.reason, drop.detail, drop.attempts)


@pytest.mark.parametrize(("schema", "key"), [(PROMPT, "prompt_id"), (REVISION, "prompt_id"), (DROPPED, "row_id")])
def test_keys_are_never_null(schema: pa.Schema, key: str) -> None:
    assert not schema.field(key).nullable and schema.field(key).type == pa.string()


def test_the_message_struct_is_shared() -> None:
    assert PROMPT.field("messages").type == REVISION.field("messages").type == pa.list_(MESSAGE)


def test_a_reason_is_for_dropping_or_for_leaving_out_and_never_both() -> None:
    assert not set(map(str, DropReason)) & set(map(str, LeftOutReason))
    assert all(is_left_out(code) and reason_of(code) is code for code in LeftOutReason)
    assert not any(is_left_out(code) for code in DropReason) and all(reason_of(code) is code for code in DropReason)
    assert all(reason.sentence and reason.setting and reason == reason.name.lower() for reason in LeftOutReason)
    drop = pickle.loads(pickle.dumps(DropRow(LeftOutReason.LIMIT, "why")))
    assert drop_of(dropped_row("a", "stage", drop)).reason is LeftOutReason.LIMIT
