"""Evaluation rows as a long table, and which interval a metric gets."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.metrics.evaluations import LONG, estimate, flatten
from cai_ray.metrics.intervals import Estimate, clustered_mean, clustered_rate, mean, rate
from cai_ray.rows import EVALUATION

SCORES = st.lists(
    st.fixed_dictionaries(
        {
            "metric": st.sampled_from(["harmful", "helpful"]),
            "value": st.none() | st.floats(allow_nan=False),
            "judge": st.none() | st.just("someone"),
        }
    ),
    max_size=4,
)


def row(scores: list[dict[str, Any]], prompt_id: str = "p") -> dict[str, Any]:
    return {
        "policy": "policy",
        "prompt_id": prompt_id,
        "sample_index": 0,
        "cluster": prompt_id,
        "category": None,
        "scores": scores,
    }


@given(st.lists(SCORES, max_size=6))
def test_one_row_per_score_in_order(scores: list[list[dict[str, Any]]]) -> None:
    rows = [row(own, str(number)) for number, own in enumerate(scores)]
    long = flatten(pa.Table.from_pylist(rows, EVALUATION))
    assert long.schema == LONG
    expected = [{k: v for k, v in one.items() if k != "scores"} | score for one in rows for score in one["scores"]]
    assert long.to_pylist() == expected


def test_flatten_takes_tables_of_several_chunks() -> None:
    score = {"metric": "m", "value": 1.0, "judge": None}
    table = pa.Table.from_pylist([row([score] * k, str(k)) for k in range(4)], EVALUATION)
    chunks = pa.concat_tables([table.slice(1, 2), table.slice(3, 1)])
    assert flatten(chunks)["prompt_id"].to_pylist() == ["1", "2", "2", "3", "3", "3"]


def test_the_interval_suits_the_values() -> None:
    apart, together = ["a", "b", "c", "d"], ["a", "a", "b", "b"]
    assert estimate([1.0, 0.0, 1.0, 1.0], apart) == rate(3, 4)
    assert estimate([1.0, 0.0, 1.0, 1.0], together) == clustered_rate([True, False, True, True], together)
    assert estimate([2.5, -1.0, 0.0, 1.0], apart) == mean([2.5, -1.0, 0.0, 1.0])
    assert estimate([2.5, -1.0, 0.0, 1.0], together) == clustered_mean([2.5, -1.0, 0.0, 1.0], together)
    assert estimate([], []) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), max_size=12))
def test_shares_stay_shares(answers: list[tuple[float, str]]) -> None:
    found = estimate([value for value, _ in answers], [cluster for _, cluster in answers])
    if found is not None:
        assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1


def test_ratings_that_are_all_1_are_no_share() -> None:
    prompts = [str(k) for k in range(4)]
    assert estimate([1.0] * 4, prompts, may_be_share=False) == Estimate(value=1.0, low=1.0, high=1.0, n=4)
    share = estimate([1.0] * 4, prompts)
    assert share is not None and share.low < 1
    several = estimate([0.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"], may_be_share=False)
    assert several is not None and several.low < 0 < 1 < several.high
    assert estimate([], [], may_be_share=False) is None
