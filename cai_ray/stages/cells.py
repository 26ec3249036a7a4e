"""Numbers as people read them, short enough that a terminal's table with three estimates a row fits 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable

from cai_ray.metrics.intervals import Estimate


def percent(share: float) -> str:
    """ "40.2%"; "0%" and "100%" are exact."""
    return f"{share:.1%}" if 0 < abs(share) < 1 else f"{share:.0%}"


def points(difference: float) -> str:
    """ "-58.7": a difference of shares, in percentage points."""
    return f"{100 * difference:+.1f}"


def cell(
    found: Estimate | None,
    form: Callable[[float], str] = percent,
    least: float = -math.inf,
    most: float = math.inf,
) -> str:
    """ "70.3% [65.1, 75.0]": the value with its interval; "-" for None.

    The interval is cut to [least, most], beyond which no value lies.
    """
    if found is None:
        return "-"
    value, low, high = map(form, (found.value, max(found.low, least), min(found.high, most)))
    return f"{value} [{low.removesuffix('%')}, {high.removesuffix('%')}]"
