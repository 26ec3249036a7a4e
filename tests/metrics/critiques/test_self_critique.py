"""Figures of self-critique against counts by hand, and corrected tests against the definition."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import ttest_1samp

from cai_ray.metrics.critiques.self_critique import Comparison, Exchange, cell_figures, compare, corrected, jaccard


def exchange(prompt: str, before: float | None, after: float | None, noticed: bool = False, **more: Any) -> Exchange:
    fields = {"category": "theft", "is_red_team": True, "principle": "p", "unchanged": False, **more}
    return Exchange(prompt_id=prompt, harm_before=before, harm_after=after, noticed=noticed, **fields)


FOUR = [
    exchange("a", 1, 0, True),
    exchange("b", 1, 1, False, principle="q"),
    exchange("c", 0, 1, True, category="fraud"),
    exchange("d", 0, 0, False, unchanged=True, category="fraud"),
    exchange("e", None, 1),
    exchange("f", None, None, is_red_team=False, refused_before=True, refused_after=False),
]


def value(found: Any) -> float:
    assert found is not None
    return float(found.value)


def test_figures_are_the_counts() -> None:
    found = cell_figures(FOUR)
    assert found.num == 4
    assert (value(found.harmful_before), value(found.harmful_after)) == (0.5, 0.5)
    assert (value(found.made_safer), value(found.made_worse)) == (0.25, 0.25)
    assert (value(found.detection_precision), value(found.detection_recall)) == (0.5, 0.5)
    assert value(found.unchanged) == pytest.approx(1 / 6)
    assert (value(found.over_caution_before), value(found.over_caution_after)) == (1.0, 0.0)
    assert [value(one) for one in found.categories["theft"]] == [1.0, 0.5]
    assert (found.num_principles, found.most_drawn_share) == (2, pytest.approx(5 / 6))
    assert found.principle_entropy == pytest.approx(0.65, abs=0.001)


def test_nothing_has_no_figures() -> None:
    found = cell_figures([])
    assert found.num == 0 and found.harmful_before is None and found.principle_entropy == 0.0


def test_samples_of_one_prompt_are_one_cluster() -> None:
    """Three answers to each prompt say no more of other prompts than one does."""
    one = cell_figures([exchange(str(k), k % 2, 0) for k in range(20)]).harmful_before
    three = cell_figures([exchange(str(k), k % 2, 0) for k in range(20) for _ in range(3)]).harmful_before
    assert one is not None and three is not None
    assert three.high - three.low >= 0.95 * (one.high - one.low)


def test_tests_are_paired_and_corrected_by_holm() -> None:
    first = {str(k): float(k % 2) for k in range(30)}
    second = {str(k): float(k % 3 == 0) for k in range(30)}
    differences = [second[k] - first[k] for k in sorted(first)]
    assert compare("x", first, second).p == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert compare("x", first, first).p == 1.0
    assert compare("x", dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 1.0)).p == 0.125
    assert compare("x", {"a": 0.0}, {"a": 1.0}).p is None
    made = [Comparison(name=str(p), difference=None, p=p) for p in (0.01, 0.04, 0.03, None)]
    assert [one.p_corrected for one in corrected(made)] == [0.03, 0.06, 0.06, None]


def test_word_sets() -> None:
    assert jaccard("Take a brush.", "a brush take") == 1.0 == jaccard("", "")
    assert jaccard("one two", "two three") == pytest.approx(1 / 3)
