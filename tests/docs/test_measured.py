"""docs/measured.md says what the result files say."""

from __future__ import annotations

from benchmarks import measured_page


def test_the_page_is_the_one_that_the_results_make() -> None:
    assert measured_page.PAGE.read_text() == measured_page.render(), "run `python -m benchmarks.measured_page`"


def test_figures_carry_their_spread() -> None:
    assert measured_page.share({"min": 0.1, "median": 0.25, "max": 0.5}) == "25.0% (10.0 to 50.0)"
    assert measured_page.share({"value": 0.25, "low": 0.2, "high": 0.3, "n": 9}, 0) == "25% [20, 30]"
    assert measured_page.times({"min": 1, "median": 2, "max": 3}) == "2.00x (1.00 to 3.00)"
    assert measured_page.plain({"median": 0.5}, 100) == "50.0"
