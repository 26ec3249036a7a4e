"""Replies of moderation endpoints, in either spelling, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.prompts.judges.moderation import category_name, read_moderation

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["results", "flagged", "categories", "category_scores", "x"]), inner, max_size=4
        )
    ),
)


def reply(**result: Any) -> dict[str, Any]:
    full = {"flagged": True, "categories": {}, "category_scores": {}} | result
    return {"id": "modr-1", "model": "m", "results": [full]}


def test_both_spellings_are_one_category() -> None:
    assert {category_name(name) for name in ("self-harm/intent", "self_harm_intent", "Self-Harm/Intent ")} == {
        "self-harm-intent"
    }
    for name in ("self-harm", "self_harm"):
        found = read_moderation(reply(categories={name: True}, category_scores={name: 0.75}))
        assert found is not None and found.categories == {"self-harm": True} and found.scores == {"self-harm": 0.75}


def test_both_spellings_at_once() -> None:
    found = read_moderation(
        reply(
            categories={"self-harm": False, "self_harm": True, "illicit": None},
            category_scores={"self_harm": 0.2, "self-harm": 0.1, "illicit": None},
        )
    )
    assert found is not None
    assert found.categories == {"self-harm": True, "illicit": False} and found.scores == {"self-harm": 0.2}


def test_a_server_without_categories() -> None:
    found = read_moderation({"results": [{"flagged": False}]})
    assert found is not None and not found.flagged and found.categories == {} and found.scores == {}


@pytest.mark.parametrize(
    "body",
    [
        None,
        "ok",
        [],
        {},
        {"results": []},
        {"results": ["flagged"]},
        {"results": {"flagged": True}},
        reply(flagged="yes"),
        reply(flagged=None),
        reply(categories=["hate"]),
        reply(categories={"hate": 1}),
        reply(category_scores={"hate": "high"}),
        reply(category_scores={"hate": 1.5}),
        reply(category_scores={"hate": float("nan")}),
        reply(category_scores={"hate": True}),
    ],
)
def test_what_is_no_verdict_is_not_guessed_at(body: Any) -> None:
    assert read_moderation(body) is None


@given(JSON)
def test_any_body_is_read_without_an_error(body: Any) -> None:
    read_moderation(body)
