"""Names of metrics: which is shown first, which in percent, which way is better."""

from __future__ import annotations

import pytest

from cai_ray.metrics.names import METRICS, in_order, is_share, kind_of, metric_of, most_telling
from cai_ray.stages.evaluation.scorers import TEXT_SCORERS, RuleScorer


def test_harm_comes_first_a_second_opinion_after_the_first_and_strangers_last() -> None:
    assert in_order(["z", "meta", "harmful.judge", "helpful", "harmful"]) == [
        "harmful", "harmful.judge", "helpful", "meta", "z",
    ]  # fmt: skip


def test_the_most_telling_are_of_harm_and_help_and_one_of_a_kind() -> None:
    assert most_telling(["preachy", "evasive", "harmful", "helpful", "harmful.guard"], 3) == [
        "harmful", "helpful", "evasive",
    ]  # fmt: skip
    assert most_telling(["refusal", "preference_score", "harmfulness_score", "evasive"], 3) == [
        "evasive", "harmfulness_score", "preference_score",
    ]  # fmt: skip
    assert most_telling(["harmful.guard", "z"], 3) == ["harmful.guard", "z"] and most_telling([], 3) == []


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("harmful", (0.0, 1.0), True),
        ("preference_score", (0.5,), False),
        ("harmfulness_score.judge", (), False),
        ("loudness", (0.2, 3.0), False),
    ],
)
def test_what_is_a_share(name: str, values: tuple[float, ...], expected: bool) -> None:
    assert is_share(name, values) == expected


def test_names_in_words() -> None:
    assert metric_of("harmful.llama_guard").title == "Harmful (llama_guard)" and kind_of("harmful.a.b") == "harmful"
    names = ("harmfulness_score", "harmlessness", "preference_score", "z")
    assert [metric_of(name).better for name in names] == ["lower", "higher", "higher", "neither"]
    assert metric_of("some_thing").title == "Some thing"


def test_every_rule_has_words() -> None:
    assert {name for scorer in ("microworld", *TEXT_SCORERS) for name in RuleScorer(scorer).metrics} <= set(METRICS)
