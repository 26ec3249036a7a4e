"""Revision rows -> SFT examples: every unit once, prompts on one side of the split, weights as promised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.dropped import LeftOutReason
from cai_ray.stages.supervised.examples import (
    ExampleOptions,
    draw_eval,
    examples,
    schedule,
    split_of,
    unit_ids,
)

texts = st.sampled_from(["", "  ", "No, but here is a way.", "Yes."])
flags = st.lists(st.sampled_from(["meta_commentary", "truncated", "critique.leak"]), max_size=2)
rounds = st.fixed_dictionaries({"principle_id": st.just("p"), "critique": st.none(), "revision": texts, "flags": flags})


@st.composite
def revision_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for number in range(draw(st.integers(1, 8))):
        helpful = draw(st.booleans())
        rows.append(
            {
                "prompt_id": f"prompt{draw(st.integers(0, 3))}",
                "sample_index": number,
                "kind": "helpful" if helpful else "red_team",
                "split": "train",
                "messages": [{"role": "user", "content": "hello"}],
                "initial_response": draw(texts),
                "initial_flags": draw(flags),
                "revisions": [] if helpful else draw(st.lists(rounds, max_size=4)),
            }
        )
    return rows


option_sets = st.builds(
    ExampleOptions,
    revision_index=st.sampled_from(["all", "last", 0, 2]),
    revised_weight=st.sampled_from([0.0, 0.5, 1.0]),
    helpful_weight=st.sampled_from([0.0, 1.0, 2.5]),
    exclude_flags=st.sampled_from([(), ("meta_commentary",)]),
    eval_fraction=st.sampled_from([0.0, 0.5]),
)


@given(revision_rows(), option_sets)
def test_every_unit_ends_exactly_once(rows: list[dict[str, Any]], options: ExampleOptions) -> None:
    units = [unit for row in rows for unit in unit_ids(row, options)]
    made = [made for row in rows for made in examples(row, options, seed=1)]
    ends = [m.row_id for m in made]
    assert ends == units
    assert len(set(units)) == len(units)


@given(revision_rows(), option_sets)
def test_a_prompt_is_on_one_side(rows: list[dict[str, Any]], options: ExampleOptions) -> None:
    sides: dict[str, set[str]] = {}
    for row in rows:
        for made in examples(row, options, seed=1):
            if made.drop is None:
                sides.setdefault(made.row["prompt_id"], set()).add(made.row["split"])
    assert all(len(splits) == 1 for splits in sides.values())


def row(**changes: Any) -> dict[str, Any]:
    revisions = [
        {"principle_id": "p", "critique": None, "revision": f"revision {k}", "flags": ["truncated"] * (k == 1)}
        for k in range(3)
    ]
    return {
        "prompt_id": "a",
        "sample_index": 0,
        "kind": "red_team",
        "split": "train",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "initial_response": "initial",
        "initial_flags": [],
        "revisions": revisions,
        **changes,
    }


def answers(source: dict[str, Any], **options: Any) -> list[str]:
    made = examples(source, ExampleOptions(**options), seed=0)
    return [m.row["messages"][-1]["content"] for m in made if m.drop is None]


def test_which_revisions_are_learned() -> None:
    assert answers(row()) == ["revision 0", "revision 1", "revision 2"]
    assert answers(row(), revision_index="last") == ["revision 2"]
    assert answers(row(), revision_index=0) == ["revision 0"]
    assert answers(row(), revision_index=7) == []
    assert answers(row(), revised_weight=0) == []
    assert answers(row(kind="helpful", revisions=[])) == ["initial"]
    assert answers(row(kind="helpful", revisions=[]), helpful_weight=0) == []


def test_an_example_keeps_the_whole_prompt() -> None:
    (made,) = examples(row(), ExampleOptions(revision_index="last", eval_fraction=0), seed=0)
    assert [message["role"] for message in made.row["messages"]] == ["system", "user", "assistant"]
    assert (made.row["example_id"], made.row["revision_index"], made.row["split"]) == ("a/0/2", 2, "train")


def test_flags_leave_out_only_when_asked() -> None:
    assert len(answers(row())) == 3
    made = list(examples(row(), ExampleOptions(exclude_flags=("truncated",)), seed=0))
    assert [m.drop is not None for m in made] == [False, True, False]
    lost = made[1].drop
    assert lost is not None and lost.reason == LeftOutReason.FLAG and "truncated" in lost.detail


def test_split_test_is_held_out_and_the_rest_by_share() -> None:
    assert split_of("a", "test", 0.0, seed=0) == "eval"
    held_out = sum(split_of(f"prompt {k}", "train", 0.2, seed=0) == "eval" for k in range(2000))
    assert 320 < held_out < 480
    assert all(split_of(f"prompt {k}", "train", 0.0, seed=0) == "train" for k in range(20))


def test_weights_are_expected_times_per_epoch() -> None:
    ids = [f"example {k}" for k in range(400)]
    first, second = schedule(ids, [2.25] * 400, epochs=2, seed=0)
    for epoch in (first, second):
        assert {epoch.count(k) for k in range(400)} == {2, 3}
        assert 860 < len(epoch) < 940
    assert sorted(first) != sorted(second)  # drawn anew
    assert schedule(ids, [2.25] * 400, epochs=2, seed=0) == [first, second]
    assert sorted(schedule(ids, [1.0] * 400, 1, seed=0)[0]) == list(range(400))


def test_half_an_epoch() -> None:
    whole, half = schedule([str(k) for k in range(10)], [1.0] * 10, epochs=1.5, seed=0)
    assert (len(whole), len(half), len(set(half))) == (10, 5, 5)


def test_eval_reads_the_same_few() -> None:
    ids = [str(k) for k in range(100)]
    chosen = draw_eval(ids, 10, seed=0)
    assert chosen == sorted(set(chosen)) and len(chosen) == 10
    assert chosen == draw_eval(ids, 10, seed=0) != draw_eval(ids, 10, seed=1)
    assert draw_eval(ids, 1000, seed=0) == list(range(100))


@pytest.mark.parametrize("index", [-1, "first", 1.5])
def test_a_wrong_revision_index_is_refused(index: Any) -> None:
    with pytest.raises(ValidationError, match="revision_index"):
        ExampleOptions(revision_index=index)
