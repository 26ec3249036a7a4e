"""Geometry of charts: round ticks, values where they belong, whiskers around them."""

from __future__ import annotations

import itertools
import math
import re

from hypothesis import assume, given
from hypothesis import strategies as st

from cai_ray.stages.report.charts import (
    WIDTH,
    Axis,
    Point,
    Row,
    Series,
    Value,
    nice_ticks,
    percent,
    plain,
    row_chart,
    xy_chart,
)

finite = st.floats(-1e9, 1e9, allow_nan=False, allow_infinity=False)


@given(finite, finite, st.integers(3, 8), st.booleans())
def test_ticks_are_few_round_and_inside(low: float, high: float, most: int, whole: bool) -> None:
    assume(high - low > 1e-6 * max(1.0, abs(low), abs(high)))
    ticks = nice_ticks(low, high, most, whole)
    slack = (high - low) * 1e-6
    assert len(ticks) <= most + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert ticks == sorted(set(ticks))
    if whole:
        assert all(tick == int(tick) for tick in ticks)


def test_ticks_of_a_single_value_surround_it() -> None:
    ticks = nice_ticks(3.0, 3.0)
    assert ticks[0] <= 3.0 <= ticks[-1] and len(ticks) >= 2


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_every_point_is_drawn_inside(points: list[tuple[float, float]]) -> None:
    chart = xy_chart("t", Axis("x", plain), Axis("y", plain), [Series("s", 1, [Point(x, y) for x, y in points])])
    assert chart is not None
    for mark in chart.traces[0].marks:
        assert chart.left <= mark.x <= chart.right and chart.top <= mark.y <= chart.bottom
        assert math.isfinite(mark.x) and math.isfinite(mark.y)
    assert re.fullmatch(r"(M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)*)?", chart.traces[0].path)


def test_up_is_up_and_whiskers_surround_their_value() -> None:
    points = [Point(0, 0.2, y_low=0.1, y_high=0.3), Point(1, 0.8, y_low=0.7, y_high=0.95)]
    chart = xy_chart("t", Axis("x", plain), Axis("y", percent, (0.0, 1.0)), [Series("s", 1, points)])
    assert chart is not None
    first, second = chart.traces[0].marks
    assert first.x < second.x and first.y > second.y  # SVG counts downward
    assert first.y_low is not None and first.y_high is not None and first.y_high < first.y < first.y_low
    assert [tick.label for tick in chart.y_ticks] == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_no_point_is_no_chart() -> None:
    assert xy_chart("t", Axis("x", plain), Axis("y", plain), [Series("s", 1, [])]) is None
    assert row_chart("t", Axis("", plain), [Row("a", [])]) is None


def test_values_of_a_row_stand_apart_within_the_chart() -> None:
    values = [Value(k, f"p{k}", k / 10, k / 10 - 0.05, k / 10 + 0.05, "") for k in range(1, 4)]
    chart = row_chart("t", Axis("share", percent, (0.0, 1.0)), [Row("a category with a very long name", values)] * 2)
    assert chart is not None
    heights = [mark.y for row in chart.rows for mark in row.marks]
    assert heights == sorted(heights) and min(b - a for a, b in itertools.pairwise(heights)) >= 8
    assert all(chart.left <= mark.low < mark.x < mark.high <= WIDTH for row in chart.rows for mark in row.marks)
    assert chart.rows[0].label.endswith("…") and chart.rows[0].whole_label == "a category with a very long name"
    assert chart.legend == [(1, "p1"), (2, "p2"), (3, "p3")]


def test_labels_of_neighbours_do_not_lie_on_each_other() -> None:
    series = [Series(f"s{k}", k, [Point(0.5, 0.5 + k / 500, label=f"policy {k}")], line=False) for k in range(4)]
    chart = xy_chart("t", Axis("x", percent, (0.0, 1.0)), Axis("y", percent, (0.0, 1.0)), series)
    assert chart is not None
    heights = sorted(mark.label_y for trace in chart.traces for mark in trace.marks)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 13
