"""Answers that repeat themselves without end, as small models write them: cleaned and judged in linear time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cai_ray.quality.cleaning import CleaningConfig, clean
from cai_ray.quality.gates import boilerplate_score
from tests.plain_python import loops

RULES = CleaningConfig()
REPEATED = (
    "Human: ",
    "\n\nHuman: x",
    "RevisionRequest: ",
    "Assistant: ",
    "Here is the revised response: ",
    "Here is the revised version\n",
    "\nThis revised response avoids harm.",
    "<think>",
    "</think>",
    "the same again, ",
    "```\n",
    '"',
)


@pytest.mark.parametrize("text", REPEATED)
def test_four_times_the_text_takes_about_four_times_as_long(text: str) -> None:
    def cleaned(times: int) -> Callable[[], object]:
        return lambda: clean(text * times, RULES)

    short, long = (loops(cleaned(times), repeats=3) for times in (1_000, 4_000))
    assert long < 8 * short + 20


def test_stock_phrases_are_counted_in_linear_time() -> None:
    text = "As an AI language model, "
    short, long = (loops(lambda times=times: boilerplate_score(text * times), 3) for times in (500, 2_000))  # type: ignore[misc]
    assert long < 8 * short + 20
    assert boilerplate_score(text * 500) == 1.0


@pytest.mark.parametrize("text", ["Human: ", "RevisionRequest: ", "Here is the revised response: "])
def test_what_stands_behind_the_last_of_them_is_the_answer(text: str) -> None:
    assert clean(text * 50 + "Rest well.", RULES).text == "Rest well."
