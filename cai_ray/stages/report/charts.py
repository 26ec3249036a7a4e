"""Charts as geometry: from numbers to pixels, ticks and paths, which a template turns into SVG.

Every chart is as wide as a phone, so that its letters stay readable there; a wide screen shows several side by side.
Colours are slots (0, 1, ...) that the style sheet fills, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH = 360
HEIGHT = 236
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 10, 40  # margins of an XY chart, pixels
VALUES, ROW = 54, 26  # column of values and row height of a row chart
LETTER = 6.4  # pixels of an average letter
LONGEST_LABEL = 20  # characters; the whole label is in the tooltip


class Tick(NamedTuple):
    at: float  # pixels
    label: str


class Mark(NamedTuple):
    """A value with its interval, in pixels; without whiskers where low and high are None."""

    x: float
    y: float
    radius: float
    x_low: float | None
    x_high: float | None
    y_low: float | None
    y_high: float | None
    label: str
    label_left: bool  # the label stands left of the mark
    label_y: float
    title: str  # tooltip


class Trace(NamedTuple):
    name: str
    slot: int
    path: str  # "" without a line
    marks: list[Mark]


@dataclass(frozen=True)
class Chart:
    """An XY chart, ready to draw."""

    title: str
    note: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    traces: list[Trace]
    diagonal: str = ""  # path of the line y = x
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


class Point(NamedTuple):
    """A value to draw, in its own units."""

    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    label: str = ""
    title: str = ""
    radius: float = 3.5


class Series(NamedTuple):
    name: str
    slot: int
    points: Sequence[Point]
    line: bool = True
    marks: bool = True


class Axis(NamedTuple):
    """`bounds` None: what the values need. `format` makes a tick's label."""

    label: str
    format: Callable[[float], str]
    bounds: tuple[float, float] | None = None
    whole: bool = False  # ticks at whole numbers only


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def plain(value: float) -> str:
    """Short: 1,200 as "1.2k", 0.00001 as "1e-05"."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def nice_ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers that span [low, high]: multiples of 1, 2, 2.5 or 5 times a power of ten, at most `most` inside."""
    if not high > low:
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    power = max(power, 1.0) if whole else power
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        if (high - low) / step <= most - 1 and not (whole and step != int(step)):
            break
    slack = (high - low) * 1e-9  # what rounding may cost
    first, last = math.ceil((low - slack) / step), math.floor((high + slack) / step)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _bounds(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    if axis.bounds is not None:
        return axis.bounds
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(low) * 0.1 or 0.5
    return (low, high) if axis.whole and high > low else (low - pad, high + pad)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Value -> pixels, one decimal; values outside are drawn at the edge."""
    return lambda value: round(start + (min(max(value, low), high) - low) / (high - low) * (end - start), 1)


def xy_chart(
    title: str, x: Axis, y: Axis, series: Sequence[Series], *, note: str = "", diagonal: bool = False
) -> Chart | None:
    """Lines and marks over two axes; None without a point."""
    points = [point for one in series for point in one.points]
    if not points:
        return None
    across = [v for p in points for v in (p.x, p.x_low, p.x_high) if v is not None]
    up = [v for p in points for v in (p.y, p.y_low, p.y_high) if v is not None]
    x_low, x_high = _widened(*_bounds(across, x))
    y_low, y_high = _widened(*_bounds(up, y))
    to_x, to_y = _scale(x_low, x_high, LEFT, WIDTH - RIGHT), _scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    ends = (max(x_low, y_low), min(x_high, y_high))
    return Chart(
        title=title,
        note=note,
        x_label=x.label,
        y_label=y.label,
        x_ticks=[Tick(to_x(v), x.format(v)) for v in nice_ticks(x_low, x_high, 6, x.whole)],
        y_ticks=[Tick(to_y(v), y.format(v)) for v in nice_ticks(y_low, y_high, 6)],
        traces=[
            Trace(one.name, one.slot, _path(one, to_x, to_y), marks)
            for one, marks in zip(series, _marks(series, to_x, to_y), strict=True)
            if one.points
        ],
        diagonal=f"M{to_x(ends[0])} {to_y(ends[0])}L{to_x(ends[1])} {to_y(ends[1])}" if diagonal else "",
    )


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _path(series: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    if not series.line or len(series.points) < 2:
        return ""
    return "M" + "L".join(f"{to_x(point.x)} {to_y(point.y)}" for point in series.points)


def _marks(
    series: Sequence[Series], to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> list[list[Mark]]:
    """The marks of each series. A label that would lie on another moves down until it does not."""
    taken: list[tuple[float, float]] = []
    found = []
    for one in series:
        own = []
        for mark in (_mark(point, to_x, to_y) for point in one.points if one.marks):
            y = mark.label_y
            while mark.label and any(abs(y - other) < 13 and abs(mark.x - x) < 70 for x, other in taken):
                y += 13
            taken += [(mark.x, y)] if mark.label else []
            own.append(mark._replace(label_y=y))
        found.append(own)
    return found


def _mark(point: Point, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Mark:
    def pixels(value: float | None, scale: Callable[[float], float]) -> float | None:
        return None if value is None else scale(value)

    at = to_x(point.x)
    return Mark(
        at,
        to_y(point.y),
        point.radius,
        pixels(point.x_low, to_x),
        pixels(point.x_high, to_x),
        pixels(point.y_low, to_y),
        pixels(point.y_high, to_y),
        point.label,
        at > WIDTH - 90,
        to_y(point.y) - 8 if to_y(point.y) > 30 else to_y(point.y) + 18,
        point.title,
    )


# --- One row per name -----------------------------------------------------------------------------------


class Value(NamedTuple):
    """A value with its interval, of one row."""

    slot: int
    name: str
    value: float
    low: float
    high: float
    title: str


class Row(NamedTuple):
    label: str
    values: Sequence[Value]
    text: str = ""  # at the end of the row


class RowMark(NamedTuple):
    slot: int
    x: float
    y: float
    low: float
    high: float
    title: str


class DrawnRow(NamedTuple):
    label: str
    whole_label: str
    text: str
    y: float
    marks: list[RowMark]


@dataclass(frozen=True)
class RowChart:
    """Rows with marks and whiskers, or bars, ready to draw."""

    title: str
    note: str
    x_label: str
    ticks: list[Tick]
    rows: list[DrawnRow]
    legend: list[tuple[int, str]]  # (slot, name)
    bars: bool
    zero: float  # pixels, where bars begin
    height: int
    left: int
    right: int
    bottom: int
    width: int = WIDTH


def row_chart(
    title: str, axis: Axis, rows: Sequence[Row], *, note: str = "", bars: bool = False, legend: bool = True
) -> RowChart | None:
    """A row per name; several values of a row stand a little apart. None without a value."""
    values = [value for row in rows for value in row.values]
    if not values:
        return None
    low, high = _widened(*_bounds([v for one in values for v in (one.low, one.high)], axis))
    right = WIDTH - (VALUES if any(row.text for row in rows) else RIGHT)
    left = _label_column(rows)
    to_x = _scale(low, high, left, right)
    heights = [max(ROW, 11 * len(row.values) + 8) for row in rows]
    drawn, top = [], 4.0
    for row, height in zip(rows, heights, strict=True):
        drawn.append(_row(row, top, height, to_x))
        top += height
    names = {value.slot: value.name for value in values}
    return RowChart(
        title=title,
        note=note,
        x_label=axis.label,
        ticks=[Tick(to_x(v), axis.format(v)) for v in nice_ticks(low, high, 5)],
        rows=drawn,
        legend=sorted(names.items()) if legend else [],
        bars=bars,
        zero=to_x(0.0),
        height=int(top) + (38 if axis.label else 22),
        left=left,
        right=right,
        bottom=int(top) + 2,
    )


def _label_column(rows: Sequence[Row]) -> int:
    """As wide as the longest label needs, pixels."""
    return 16 + round(LETTER * max(min(len(row.label), LONGEST_LABEL) for row in rows))


def _row(row: Row, top: float, height: float, to_x: Callable[[float], float]) -> DrawnRow:
    middle = top + height / 2
    apart = 10.0
    first = middle - apart * (len(row.values) - 1) / 2
    marks = [
        RowMark(v.slot, to_x(v.value), round(first + apart * k, 1), to_x(v.low), to_x(v.high), v.title)
        for k, v in enumerate(row.values)
    ]
    short = row.label if len(row.label) <= LONGEST_LABEL else f"{row.label[: LONGEST_LABEL - 1]}…"
    return DrawnRow(short, row.label, row.text, middle, marks)
