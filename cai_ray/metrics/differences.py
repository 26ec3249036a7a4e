"""How much a metric differs between two models that answered the same prompts: paired, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from cai_ray.metrics.intervals import Z95, Estimate, clustered_mean


def paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> Estimate | None:
    """Mean of `after` less `before` over the prompts that both have, with its 95% interval; None without two of them.

    Both map a prompt to its value (its mean over samples); `n` counts prompts. Pairing takes out what is due to the
    prompts, so the interval is narrower than that of two separate means. Values within [0, 1] get the adjusted
    interval of `bounded_difference`, others Student's t over prompts.
    """
    shared = sorted(before.keys() & after.keys())
    if len(shared) < 2:
        return None
    differences = [after[prompt] - before[prompt] for prompt in shared]
    if all(0 <= one[prompt] <= 1 for one in (before, after) for prompt in shared):
        return bounded_difference(differences)
    return clustered_mean(differences, shared)


def bounded_difference(differences: Sequence[float]) -> Estimate:
    """Mean of differences in [-1, 1] with the interval of Agresti and Min (2005).

    Theirs is for matched yes-no outcomes: half an observation more in each of the four cells, then the normal
    interval. That is two observations more, of sum 0 and sum of squares 1, which serves for values in between as
    well. Unlike the plain interval it has a width when no prompt differs, or all differ alike. The value is the plain
    mean, and always within the interval.
    """
    num_adjusted = len(differences) + 2
    middle = sum(differences) / num_adjusted
    variance = (sum(d * d for d in differences) + 1) / num_adjusted - middle**2
    spread = Z95 * math.sqrt(variance / num_adjusted)
    value = fmean(differences)
    return Estimate(
        value=value,
        low=min(value, max(-1.0, middle - spread)),
        high=max(value, min(1.0, middle + spread)),
        n=len(differences),
    )
