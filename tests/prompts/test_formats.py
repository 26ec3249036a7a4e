"""Formats of self-critique: what each step's prompt holds, and what it does not."""

from __future__ import annotations

import pytest

from cai_ray.constitution.source import load, resolve
from cai_ray.prompts.formats import FORMATS, KNOWN, answer_step, critique_step, revision_step

PRINCIPLE = load(resolve("microworld")).principles[0]
ASKED = [{"role": "user", "content": "Paint a chair."}]


def contents(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


@pytest.mark.parametrize("name", FORMATS)
def test_every_step_asks_its_principle_once_and_shows_what_it_is_about(name: str) -> None:
    form = KNOWN[name]
    critique = critique_step(ASKED, form, "A brush.", PRINCIPLE)
    revision = revision_step(ASKED, form, "A brush.", PRINCIPLE, "It is short.")
    assert contents(critique).count(PRINCIPLE.critique_request) == 1 and "A brush." in contents(critique)
    assert all(text in contents(revision) for text in ("A brush.", "It is short.", PRINCIPLE.revision_request))
    assert "chair" in contents(answer_step(ASKED, form)) and "chair" in contents(revision)
    assert ("chair" in contents(critique)) == form.sees_request


def test_few_words_lowers_the_first_letter_and_swaps_the_system_prompt() -> None:
    form = KNOWN["few_words"]
    system, user = answer_step(ASKED, form)
    assert user["content"] == "In a few words, paint a chair."
    assert critique_step(ASKED, form, "A.", PRINCIPLE)[0]["content"] != system["content"]
    assert revision_step(ASKED, form, "A.", PRINCIPLE, "B.")[0] == system


def test_fresh_steps_are_one_turn_and_growing_ones_begin_with_the_step_before() -> None:
    assert len(critique_step(ASKED, KNOWN["fresh"], "A.", PRINCIPLE)) == 1
    assert len(revision_step(ASKED, KNOWN["fresh"], "A.", PRINCIPLE, "B.")) == 1
    plain = KNOWN["plain"]
    critique = critique_step(ASKED, plain, "A.", PRINCIPLE)
    assert revision_step(ASKED, plain, "A.", PRINCIPLE, "B.")[: len(critique)] == critique
