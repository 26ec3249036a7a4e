"""Gates judge texts; near duplicates do not depend on the order of the input."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.dropped import DropReason
from cai_ray.quality.gates import (
    GatesConfig,
    boilerplate_score,
    is_no_op,
    near_duplicates,
    near_duplicates_of_signatures,
    repeats_critique,
    row_gates,
    signature,
)
from cai_ray.quality.meta_commentary import has_meta_commentary

PLAIN = "To fix the tap, turn the water off, take out the old washer and put in a new one."


def test_a_no_op_is_measured_by_similarity() -> None:
    assert is_no_op(PLAIN, PLAIN.replace(" ", "  "), 1.0)
    assert is_no_op(PLAIN, PLAIN + "!", 0.98)
    assert not is_no_op(PLAIN, "I would rather not; call a plumber.", 0.98)
    assert is_no_op("", "", 0.98)
    assert not is_no_op("", PLAIN, 0.98)


@given(st.text(max_size=50), st.text(max_size=50), st.floats(0.01, 1.0))
def test_no_op_is_reflexive_and_symmetric(first: str, second: str, threshold: float) -> None:
    assert is_no_op(first, first, threshold)
    assert is_no_op(first, second, threshold) == is_no_op(second, first, threshold)


def test_boilerplate_is_a_share_of_the_words() -> None:
    assert boilerplate_score("") == 0.0
    assert boilerplate_score(PLAIN) == 0.0
    assert boilerplate_score("You are not alone.") == 1.0
    assert boilerplate_score("You are not alone. Tea is good for you.") == pytest.approx(4 / 9)
    assert boilerplate_score("so it goes and " * 10) > 0.8
    assert boilerplate_score("we value your call", phrases=("value your call",)) == 0.75
    assert boilerplate_score("You are not alone.", phrases=()) == 0.0


@given(st.text(max_size=200))
def test_boilerplate_lies_between_0_and_1(text: str) -> None:
    assert 0.0 <= boilerplate_score(text) <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        "My answer is kind, unlike the assistant's last response.",
        "As the critique request says, blame is bad.",
        "Be kind. The revised response is polite.",
        "Be kind.\nHuman: why?",
        "The last answer does not lecture, but it does not help either.",
        "The person's last answer shows a lack of empathy.",
        "The answer is warm, takes the person seriously and makes nothing worse.",
        "The answer gives the general knowledge that is safe to give.",
        "The response doesn\u2019t tell you when to see an expert.",
        "The original text was written in a friendly tone.",
    ],
)
def test_meta_commentary_is_seen(text: str) -> None:
    assert has_meta_commentary(text)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "Human beings need a critique now and then.",
        "We revised the plan.",
        "The last answer to this riddle is a shadow.",
        "They gave the original answer.",
        "The answer is 42.",
        "Six times seven.\nThe answer should be 42.",
        "The answer depends on the tap: the answer for a mixer is a new cartridge.",
        "This response time is slow; the reply is due on Monday.",
    ],
)
def test_ordinary_text_is_no_meta_commentary(text: str) -> None:
    assert not has_meta_commentary(text)


def test_row_gates_flag_or_drop_by_config() -> None:
    assert row_gates(PLAIN, "Please call a plumber.", GatesConfig()) == []
    (flag,) = row_gates(PLAIN, PLAIN, GatesConfig())
    assert (flag.gate, flag.drop) == (DropReason.NO_OP, False)
    (flag,) = row_gates(PLAIN, PLAIN, GatesConfig(no_op="drop"))
    assert (flag.gate, flag.drop) == (DropReason.NO_OP, True)
    assert row_gates(PLAIN, PLAIN, GatesConfig(no_op="off")) == []
    text = "You are not alone. The revised response says so."
    gates = [flag.gate for flag in row_gates(PLAIN, text, GatesConfig())]
    assert gates == [DropReason.BOILERPLATE, DropReason.META_COMMENTARY]
    assert row_gates(PLAIN, text, GatesConfig(boilerplate="off", meta_commentary="off")) == []


CRITIQUE = "It blames the person for the leak, which is unkind and helps nobody at all."


@pytest.mark.parametrize(
    ("revision", "repeats"),
    [
        (CRITIQUE, True),
        (CRITIQUE.replace("unkind", "rude"), True),
        ("It blames the person for the leak.\n", True),  # how it begins
        (CRITIQUE + " It could be kinder.", True),
        ("A leak is nobody's fault. Turn the water off first and call a plumber.", False),
        ("It blames them.", False),  # too short to say
    ],
)
def test_a_revision_that_repeats_its_critique_is_seen(revision: str, repeats: bool) -> None:
    assert repeats_critique(CRITIQUE, revision, 0.8) is repeats
    flags = row_gates("It is your own fault.", revision, GatesConfig(), critique=CRITIQUE)
    assert [flag.gate for flag in flags] == [DropReason.REPEATS_CRITIQUE] * repeats
    drops = row_gates("It is your own fault.", revision, GatesConfig(repeats_critique="drop"), critique=CRITIQUE)
    assert [flag.drop for flag in drops] == [True] * repeats
    assert row_gates("It is your own fault.", revision, GatesConfig()) == [], "without a critique there is none"


def test_not_improved_needs_scores_and_a_real_gain() -> None:
    config = GatesConfig(not_improved="drop", min_improvement=0.1)
    assert row_gates("a", "b", config, score_before=0.2, score_after=0.5) == []
    for after in (0.2, 0.25, float("nan")):
        (flag,) = row_gates("a", "b", config, score_before=0.2, score_after=after)
        assert (flag.gate, flag.drop) == (DropReason.NOT_IMPROVED, True)
    with pytest.raises(ValueError, match="not_improved needs a score"):
        row_gates("a", "b", config)


def test_a_bad_phrase_is_named() -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        GatesConfig(boilerplate_phrases=("(",))
    with pytest.raises(ValidationError, match="'Call me' has capital letters"):
        GatesConfig(boilerplate_phrases=("Call me",))
    assert GatesConfig(boilerplate_phrases=(r"call\Wme",))


def words(rng: random.Random, count: int) -> list[str]:
    return [f"word{rng.randrange(5000)}" for _ in range(count)]


def test_near_duplicates_keep_the_smallest_id() -> None:
    rng = random.Random(0)
    first, other = words(rng, 200), words(rng, 200)
    changed = [*first[:100], "else", *first[101:]]
    texts = {"b": " ".join(first), "c": " ".join(changed), "a": " ".join(other), "d": " ".join(first).upper() + "!"}
    assert near_duplicates(texts.items(), threshold=0.8) == {"c": "b", "d": "b"}
    assert near_duplicates([], threshold=0.8) == {}


def test_short_texts_are_compared_whole() -> None:
    texts = [("a", "Call me."), ("b", "call me"), ("c", "Call him."), ("d", "..."), ("e", "!!!")]
    assert near_duplicates(texts, threshold=0.8) == {"b": "a"}


def test_signatures_are_bytes_equal_on_every_machine() -> None:
    assert len(signature("one two three four five six")) == 512
    assert len(signature("one", num_perm=16)) == 64
    assert signature("One, two; three", 4).hex() == signature("one two three", 4).hex() == SIGNATURE


# Stored parts hold signatures: a library that changed them would make old and new ones incomparable.
SIGNATURE = "0ad16d5220ce3bb924ed264256e0f895"


def test_unusable_signatures_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' occurs twice"):
        near_duplicates([("a", "x"), ("a", "y")], 0.8)
    with pytest.raises(ValueError, match="64 bytes, not 512"):
        near_duplicates_of_signatures([("a", signature("x")), ("b", signature("x", 16))], 0.8)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_near_duplicates_do_not_depend_on_the_order(seed: int, order: random.Random) -> None:
    rng = random.Random(seed)
    originals = [words(rng, 40) for _ in range(4)]
    texts = []
    for index in range(16):
        text = list(rng.choice(originals))
        for _ in range(rng.randrange(4)):
            text[rng.randrange(len(text))] = "other"
        texts.append((f"id{index:02}", " ".join(text)))
    found = near_duplicates(texts, threshold=0.7)
    order.shuffle(texts)
    assert near_duplicates(texts, threshold=0.7) == found
    assert all(kept < duplicate and kept not in found for duplicate, kept in found.items())
