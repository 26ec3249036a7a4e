"""Numbers as people read them, short enough that a terminal's table with three estimates a row fits 80 columns."""

from __future__ import annotations

import math

from cai_ray.metrics.intervals import Estimate


def percent(share: float) -> str:
    """ "40.2%"; "0%" and "100%" are exact."""
    return f"{share:.1%}" if 0 < abs(share) < 1 else f"{share:.0%}"


def cell(found: Estimate | None, form: str | None = None, least: float = -math.inf, most: float = math.inf) -> str:
    """ "70.3% [65.1, 75.0]": the value with its interval; "-" for None.

    `form`: of `format()`; None: in percent. The interval is cut to [least, most], beyond which no value lies.
    """
    if found is None:
        return "-"
    numbers = (found.value, max(found.low, least), min(found.high, most))
    value, low, high = (percent(number) if form is None else format(number, form) for number in numbers)
    return f"{value} [{low.removesuffix('%')}, {high.removesuffix('%')}]"
