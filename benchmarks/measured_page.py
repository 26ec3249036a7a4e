"""docs/measured.md from benchmarks/results/: `python -m benchmarks.measured_page`.

The page's words are in `measured.md.j2`; every figure in it is read from a result file, so that none is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.results_file import RESULTS

TEMPLATE = Path(__file__).with_name("measured.md.j2")
PAGE = Path(__file__).parents[1] / "docs" / "measured.md"


def render(results: Path = RESULTS) -> str:
    """The page's Markdown. Raises jinja2.UndefinedError for a figure that a result file does not have."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share, "points": points, "times": times, "number": number, "plain": plain}
    files = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    return environment.from_string(TEMPLATE.read_text()).render(files=files, **files) + "\n"


def share(figure: Any, digits: int = 1) -> str:
    """A share in [0, 1] as percent: of a spread its median and range, of an estimate its value and interval."""
    return _figure(figure, 100, digits, "%")


def points(figure: Any, digits: int = 1) -> str:
    """A difference of shares as percentage points."""
    return _figure(figure, 100, digits, "")


def times(figure: Any, digits: int = 2) -> str:
    return _figure(figure, 1, digits, "x")


def number(figure: Any, digits: int = 3) -> str:
    return _figure(figure, 1, digits, "")


def plain(figure: Any, scale: float = 1, digits: int = 1) -> str:
    """The median or value alone."""
    return f"{scale * _middle(figure):.{digits}f}"


def _middle(figure: Any) -> float:
    if isinstance(figure, dict):
        return float(figure["median"] if "median" in figure else figure["value"])
    return float(figure)


def _figure(figure: Any, scale: float, digits: int, unit: str) -> str:
    middle = f"{scale * _middle(figure):.{digits}f}{unit}"
    if isinstance(figure, dict) and "median" in figure:
        return f"{middle} ({scale * figure['min']:.{digits}f} to {scale * figure['max']:.{digits}f})"
    if isinstance(figure, dict) and "low" in figure:
        return f"{middle} [{scale * figure['low']:.{digits}f}, {scale * figure['high']:.{digits}f}]"
    return middle


if __name__ == "__main__":
    PAGE.write_text(render())
    print(PAGE)
