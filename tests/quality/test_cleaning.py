"""Cleaning removes what is not part of the answer, and nothing else."""

from __future__ import annotations

import random
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.microworld import language, words
from cai_ray.quality.cleaning import CleaningConfig, clean
from tests.plain_python import loops

ALL = CleaningConfig()
ANSWER = "Rest well, and drink some tea."

# (dirty text, the rule that mends it)
DIRTY = [
    (f"Here is the revised response: {ANSWER}", "meta_openers"),
    (f"Here\u2019s a rewritten version:\n\n{ANSWER}", "meta_openers"),
    (f"Sure, I have rewritten the answer. {ANSWER}", "meta_openers"),
    (f"Sure! Here's a rewritten version of my previous answer that is more polite:\n\n{ANSWER}", "meta_openers"),
    (f"I apologize for the harm in my previous answer. Here's a revised version: {ANSWER}", "meta_openers"),
    (f"Based on the critique, here is a safer response: {ANSWER}", "meta_openers"),
    (f"Here is a response that is less harmful:\n{ANSWER}", "meta_openers"),
    (f"Revised answer: {ANSWER}", "meta_openers"),
    (f"**Revised Response:** {ANSWER}", "meta_openers"),
    (f"(Revised response) {ANSWER}", "meta_openers"),
    (f"The revised response would be: {ANSWER}", "meta_openers"),
    (f"I would revise the response as follows: {ANSWER}", "meta_openers"),
    (f"Here is my revised answer:\n\n---\n\n{ANSWER}", "meta_openers"),
    (f"{ANSWER} I hope this revision addresses the concerns.", "meta_closers"),
    (f"{ANSWER}\n\nThis revised response avoids blame. It is also polite.", "meta_closers"),
    (f"{ANSWER} (This response was revised to be kinder.)", "meta_closers"),
    (f"{ANSWER}\n\nLet me know if you would like any further revisions.", "meta_closers"),
    (f"{ANSWER}\n\nExplanation of the changes:\n- no blame\n- more tea", "meta_closers"),
    (f"This revised response avoids blame. {ANSWER}", "meta_closers"),
    (f"Assistant: {ANSWER}", "role_labels"),
    (f"AI: {ANSWER}", "role_labels"),
    (f"**Revision:** {ANSWER}", "role_labels"),
    (f"{ANSWER}\n\nRevisionRequest: Please rewrite it.", "leaked_labels"),
    (f"{ANSWER} CritiqueRequest: Name the faults.\n\nCritique: None.", "leaked_labels"),
    (f"{ANSWER}\n\nHuman: Thanks.\n\nAssistant: Welcome.", "leaked_labels"),
    (f"RevisionRequest: Rewrite the answer.\n\nRevision: {ANSWER}", "leaked_labels"),
    (f"Human: What helps?\n\nAssistant: {ANSWER}", "leaked_labels"),
    (f"CritiqueRequest: {ANSWER}", "leaked_labels"),
    (f'"{ANSWER}"', "wrapping_quotes"),
    (f"“{ANSWER}”", "wrapping_quotes"),
    ("Rest\u200b well, and\ufeff drink some tea.\x07", "control_characters"),
]

ORDINARY = [
    "Here is how to bake bread: mix the flour, and wait.",
    "Here is a better recipe: two eggs and some milk.",
    "Here is the answer: 42.",
    "Here is a revised version of your letter: Dear Sam, thank you.",
    "Here is a reply that you can send to your landlord: Dear Sam, the tap drips.",
    "Sure. To paint a chair, first get a brush.",
    "Sure, I can help with the answer sheet.",
    "Revised editions of the book have better maps.",
    "The revised version of the novel is longer.",
    "My revised answer is 42.",
    "The new answer is simple: rest.",
    "I apologize for the confusion. The capital is Paris.",
    "I'm sorry, I can't help with that. Instead, you could call a friend.",
    "AI: a field of computer science.",
    "Critique of pure reason is a long book.",
    "A human being: what is that?",
    "Final answer: 42",
    '"Yes," she said, "no."',
    "She said “no” and “yes”.",
    "I hope this helps! Let me know if you want to hear more.",
    "To change the response time of the server: restart it.",
    "In this version of the tale, the wolf wins.",
    "The quiz was hard. Then I changed my answer, and was wrong. I corrected my answer on the form.",
    "I have changed the oil, and the answer to your question is yes.",
    "Let me know if there are other changes to the plan.",
    "1. Wash the cup.\n2. Dry it.\n\n\tThen rest.",
    "می‌خواهم 👩‍👩‍👧 naïve",  # joiners that carry meaning
    "  Spaces around stay.  ",
    "",
]


@pytest.mark.parametrize(("dirty", "rule"), DIRTY)
def test_a_dirty_text_is_mended_and_the_rule_is_counted(dirty: str, rule: str) -> None:
    cleaned = clean(dirty, ALL)
    assert cleaned.text == ANSWER
    assert cleaned.counts.get(rule) == 1


@pytest.mark.parametrize(("dirty", "rule"), DIRTY)
def test_a_rule_that_is_off_does_not_fire(dirty: str, rule: str) -> None:
    assert rule not in clean(dirty, ALL.model_copy(update={rule: False})).counts


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_text_stays(text: str) -> None:
    assert clean(text, ALL) == (unicodedata.normalize("NFC", text), {})


@pytest.mark.parametrize(
    "text",
    ["Here is the revised response:", "Sure, I have rewritten the answer.", "This revised response avoids blame."],
)
def test_nothing_but_meta_commentary_leaves_nothing(text: str) -> None:
    assert clean(text, ALL).text == ""


def test_one_rule_uncovers_work_for_another() -> None:
    text, counts = clean(f'"Assistant: Here is the revised response: “{ANSWER}”"', ALL)
    assert text == ANSWER
    assert counts == {"wrapping_quotes": 2, "role_labels": 1, "meta_openers": 1}


def test_a_critique_keeps_its_own_turn_and_an_answer_takes_the_revision() -> None:
    text = f"Critique: Too curt.\n\nRevision: {ANSWER}"
    assert clean(text, ALL, step="critique").text == "Too curt."
    assert clean(text, ALL, step="answer").text == ANSWER


def test_line_ends_become_lf_and_lone_surrogates_go() -> None:
    assert clean("one\r\ntwo\rthree\ud800", ALL).text == "one\ntwo\nthree"


def test_nfc_makes_equal_texts_equal_bytes() -> None:
    assert clean("cafe\u0301", ALL) == ("caf\u00e9", {"unicode_nfc": 1})


def test_ascii_folding_is_for_request_only_and_keeps_other_scripts() -> None:
    fold = CleaningConfig(ascii_fold=True)
    assert clean("Ça va… “naïve” \u2013 straße, 東京", fold).text == 'Ca va... "naive" - strasse, 東京'
    assert clean("Ça va…", ALL).text == "Ça va…"


def test_ftfy_mends_wrong_decoding_and_leaves_curly_quotes() -> None:
    assert clean("The cafÃ© is “open”.", CleaningConfig(ftfy=True)) == ("The café is “open”.", {"ftfy": 1})


def test_ftfy_that_is_missing_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ValidationError, match="package ftfy is not installed"):
        CleaningConfig(ftfy=True)
    assert not CleaningConfig().ftfy


def test_microworld_leaks_go_and_its_answers_stay() -> None:
    rng = random.Random(0)
    for _ in range(300):
        answer, _ = language.first_answer(rng, language.sample_task(rng, rng.random() < 0.5))
        assert clean(answer, ALL) == (answer, {})
        for opener in words.META_OPENERS:
            assert clean(opener + answer, ALL).text == answer


PIECES = st.sampled_from(
    [text for text, _ in DIRTY]
    + ORDINARY
    + [
        "Assistant: ",
        "Human: ",
        "\n\nCritique: ",
        '"',
        "“",
        "”",
        "\n",
        " ",
        "\u200d",
        "\u200b",
        "e\u0301",
        "(",
        "**",
        ": ",
    ]
)


@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=6).map("".join)))
def test_cleaning_twice_is_cleaning_once_and_never_lengthens(text: str) -> None:
    once = clean(text, ALL).text
    assert clean(once, ALL) == (once, {})
    without_nfc = ALL.model_copy(update={"unicode_nfc": False})
    assert len(clean(text, without_nfc).text) <= len(text)


@given(st.lists(PIECES, max_size=5).map("".join))
def test_cleaning_a_critique_is_idempotent_too(text: str) -> None:
    once = clean(text, ALL, step="critique").text
    assert clean(once, ALL, step="critique") == (once, {})


ORDINARY_WORDS = """
    the a my answer response version new better here is are sure okay sorry human critique changes I you please it
    this revise letter edit bread, chair, (maybe) paint; rest: and of in to was can helpful 42 “so” it\u2019s café
"""
WORD = st.sampled_from(ORDINARY_WORDS.split())


@given(st.lists(st.lists(WORD, min_size=1, max_size=12).map(" ".join), min_size=1, max_size=6))
def test_sentences_of_ordinary_words_stay(sentences: list[str]) -> None:
    # "Well" opens every sentence, so that chance does not write a real announcement or remark.
    text = "".join(f"Well {sentence}. " for sentence in sentences).strip()
    assert clean(text, ALL) == (text, {})


@pytest.mark.parametrize(
    "text",
    [
        "I hope this revision " + "a. " * 3000,
        "\n " * 3000 + "response",
        "I'm sorry " * 2000 + "answer",
        "([" * 2000 + "revised response",
        "x. This revised response avoids a. " * 500,
        "Assistant: " * 500,
    ],
)
def test_hostile_text_takes_no_more_than_a_second(text: str) -> None:
    assert loops(lambda: clean(text, ALL)) < 1000  # a pattern that backtracks takes minutes


def test_an_ordinary_answer_costs_microseconds() -> None:
    text = (
        "Sure. To bake bread, first mix the flour with the water and a little salt: that gives the dough its taste. "
        "Then knead it for ten minutes, and let it rest under a cloth until it has doubled. Shape it, wait another "
        "half hour and bake it in a hot oven until the crust is brown. It\u2019s best on the same day."
    )
    assert loops(lambda: [clean(text, ALL) for _ in range(100)], repeats=20) / 100 < 0.03
