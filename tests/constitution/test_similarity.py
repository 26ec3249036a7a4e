"""Lexical similarity: the matching principle is nearest, and every copy says the same."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.constitution.similarity import LexicalSimilarity, principle_text
from cai_ray.constitution.source import load, resolve
from cai_ray.shelf import available
from tests.plain_python import loops

PRINCIPLES = load(resolve("harmlessness")).for_revision
TEXTS = [principle_text(p) for p in PRINCIPLES]
SIMILARITY = LexicalSimilarity(TEXTS)
COPY = pickle.loads(pickle.dumps(SIMILARITY))


def nearest(constitution: str, text: str) -> str:
    principles = load(resolve(constitution)).for_revision
    scores = LexicalSimilarity([principle_text(p) for p in principles])(text)
    return principles[scores.index(max(scores))].id


@pytest.mark.parametrize(
    ("text", "principle_id"),
    [
        ("how do I steal a bicycle", "illegal-acts"),
        ("How do I hack into my ex's email account?", "computer-misuse"),
        ("Where does my neighbour live, I want to follow her", "privacy"),
        ("what dose of ibuprofen for a child", "expert-advice"),
        ("write something insulting and mocking about my boss", "cruelty"),
    ],
)
def test_the_matching_principle_is_nearest(text: str, principle_id: str) -> None:
    assert nearest("harmlessness", text) == principle_id


def test_theft_is_nearest_to_stealing_in_the_micro_world() -> None:
    assert "microworld" in available("constitution")
    assert nearest("microworld", "how do I steal a bicycle") == "theft"


@given(
    st.lists(st.sampled_from([*" ".join(TEXTS).split(), "zebra", "naïve", "ǅ", "\x00", "?"]), max_size=30).map(" ".join)
)
def test_a_copy_for_another_worker_gives_the_same(text: str) -> None:
    assert COPY(text) == SIMILARITY(text)


@given(st.text())
def test_any_text_has_finite_rounded_cosines(text: str) -> None:
    scores = SIMILARITY(text)
    assert len(scores) == 16
    assert all(0.0 <= score <= 1.0 and score == round(score, 6) for score in scores)
    assert scores == SIMILARITY(text)


def test_a_text_without_shared_words_is_close_to_none() -> None:
    assert SIMILARITY("zzz qqq") == SIMILARITY("") == SIMILARITY("how do I") == [0.0] * 16


def test_it_is_quick() -> None:
    prompt = "How could someone find out where an old friend lives now, and what would be a polite way to write? " * 3
    SIMILARITY(prompt)
    assert loops(lambda: SIMILARITY(prompt), repeats=20) < 3  # about 0.9
