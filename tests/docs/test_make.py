"""The pages that are made say what the code and the result files say."""

from __future__ import annotations

import pytest

from docs import make


@pytest.mark.parametrize("name", make.PAGES)
def test_a_page_is_the_one_that_is_made(name: str) -> None:
    assert (make.DOCS / name).read_text() == make.PAGES[name](), "run `python -m docs.make`"


def test_figures_carry_their_spread() -> None:
    assert make.share({"min": 0.1, "median": 0.25, "max": 0.5}) == "25.0% (10.0 to 50.0)"
    assert make.share({"value": 0.25, "low": 0.2, "high": 0.3, "n": 9}, 0) == "25% [20, 30]"
    assert make.times({"min": 1, "median": 2, "max": 3}) == "2.00x (1.00 to 3.00)"
    assert make.plain({"median": 0.5}, 100) == "50.0"


def test_every_column_says_what_it_is_or_has_a_name_that_does() -> None:
    pages = {schema.name: schema for schema in make.schemas(make.DOCS.parent / "cai_ray/rows.py")}
    assert [column.name for column in pages["MESSAGE"].columns] == ["role", "content"]
    probability = next(column for column in pages["PREFERENCE"].columns if column.name == "prob_chosen")
    assert probability.type == "double" and not probability.nullable and "[0.5, 1]" in probability.comment
    messages = next(column for column in pages["PROMPT"].columns if column.name == "messages")
    assert messages.type == "list<MESSAGE>"
