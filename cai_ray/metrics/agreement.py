"""Do several judges say the same of the same things?  Krippendorff's alpha, and how often two of them agree.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 1 - observed / expected disagreement. 1: they always
agree; 0: as much as chance would have it; below 0: they contradict each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Scale = Literal["nominal", "interval"]  # two different values differ, or by the square of their distance


def krippendorff_alpha(units: Sequence[Sequence[float]], scale: Scale) -> float | None:
    """Alpha, at most 1, of the values that judges gave to each unit; units with fewer than two values say nothing.

    None where no two values of any units differ, or none can be compared: there is nothing to agree about.
    """
    rated = [unit for unit in units if len(unit) > 1]
    values = [value for unit in rated for value in unit]
    total = len(values)
    if total < 2 or (expected := _differences(values, scale) / (total * (total - 1))) <= 0:
        return None
    observed = sum(_differences(unit, scale) / (len(unit) - 1) for unit in rated) / total
    return 1 - observed / expected


def _differences(values: Sequence[float], scale: Scale) -> float:
    """The sum over all ordered pairs of different places."""
    num = len(values)
    if scale == "nominal":
        return float(num * num - sum(count * count for count in Counter(values).values()))
    middle = sum(values) / num
    return 2 * num * sum((value - middle) ** 2 for value in values)
