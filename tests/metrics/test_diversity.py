"""Sameness of answers: hand-counted values, bounds on any text, and a planted formula that has to be found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.metrics.diversity import Answered, boilerplate, distinct, ngrams, self_repetition, words_of

TEXTS = st.lists(st.text(alphabet="ab .", max_size=30), max_size=8)


def test_words() -> None:
    assert words_of("Don't worry,\nbe HAPPY - 3x.") == ["don't", "worry", "be", "happy", "3x"]
    assert ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("a b", 3) == []


def test_distinct_counts_over_all_texts() -> None:
    assert distinct(["a b a", "b c"], 1) == 3 / 5
    assert distinct(["a b a", "b c"], 2) == 1.0
    assert distinct(["a b", "a b"], 2) == 0.5  # no bigram crosses from one text to the next
    assert distinct(["", "a"], 2) is None


def test_self_repetition() -> None:
    assert self_repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert self_repetition("a b c d") == self_repetition("") == 0.0
    assert self_repetition("no " * 100) == pytest.approx(97 / 98)


@given(TEXTS, st.integers(1, 4))
def test_bounds(texts: list[str], n: int) -> None:
    found = distinct(texts, n)
    assert found is None or 0 < found <= 1
    assert all(0 <= self_repetition(text, n) < 1 for text in texts)
    doubled = distinct(texts + texts, n)
    assert (doubled is None) == (found is None)
    assert doubled is None or (found is not None and doubled == pytest.approx(found / 2))


def test_finds_what_is_said_whatever_was_asked() -> None:
    formula = "you are valid valued and cared for"
    answers = [
        Answered(f"p{k}", f"question number {k} about thing{k}", f"on thing{k} take tool{k} {formula if k % 2 else ''}")
        for k in range(40)
    ]
    found = boilerplate(answers)
    # Equally common, so by the alphabet.
    assert found.phrases == (
        "are valid valued and",
        "valid valued and cared",
        "valued and cared for",
        "you are valid valued",
    )
    assert found.shares == (0.5,) * 4
    assert found.carries == tuple(bool(k % 2) for k in range(40))


def test_what_is_copied_from_the_prompt_is_no_boilerplate() -> None:
    answers = [Answered(str(k), "how do i fix my bike", f"do i fix my bike w{k}") for k in range(5)]
    assert not boilerplate(answers).phrases


def test_a_prompt_weighs_once_however_often_it_is_answered() -> None:
    said = [Answered("same", "q", "one two three four")] * 9 + [Answered(str(k), "q", f"a{k} b c d") for k in range(9)]
    found = boilerplate(said)
    assert not found.phrases and not any(found.carries)


def test_a_phrase_must_reach_its_share() -> None:
    answers = [Answered(str(k), "q", "one two three four" if k < 4 else f"w{k}") for k in range(100)]
    assert not boilerplate(answers).phrases
    assert boilerplate(answers, min_share=0.04).phrases == ("one two three four",)
    assert boilerplate([], min_share=0.04) == ((), (), ())


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.text(alphabet="ab ", max_size=20)), max_size=12))
def test_boilerplate_adds_up(pairs: list[tuple[str, str]]) -> None:
    found = boilerplate([Answered(prompt, "", text) for prompt, text in pairs], n=2)
    assert len(found.carries) == len(pairs) and len(found.phrases) == len(found.shares) <= 10
    assert list(found.shares) == sorted(found.shares, reverse=True)
    for carries, (_, text) in zip(found.carries, pairs, strict=True):
        assert carries == any(tuple(phrase.split()) in ngrams(text, 2) for phrase in found.phrases)
