"""From Evaluation rows to numbers: scores as a long table, and the estimate of one metric with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.metrics.intervals import Estimate, clustered_mean, clustered_rate, mean, rate
from cai_ray.rows import EVALUATION, SCORE

_KEYS = [field for field in EVALUATION if field.name != "scores"]
# One row per answer and metric.
LONG = pa.schema([*_KEYS, *(SCORE.field(k) for k in range(SCORE.num_fields))])


def flatten(evaluations: pa.Table) -> pa.Table:
    """Rows of the schema EVALUATION -> rows of LONG, one per score, in the same order."""
    scores = evaluations["scores"].combine_chunks()
    owners = pc.list_parent_indices(scores)
    flat = pc.list_flatten(scores)
    columns = [evaluations[field.name].take(owners) for field in _KEYS]
    return pa.Table.from_arrays([*columns, *(pc.struct_field(flat, k) for k in range(SCORE.num_fields))], schema=LONG)


def estimate(values: Sequence[float], clusters: Sequence[str], may_be_share: bool = True) -> Estimate | None:
    """The mean of one metric over answers, with its 95% interval; None where the data cannot give an interval.

    Values that are all 0 or 1 make a share, with Wilson's interval, the others a mean. Answers of one cluster hang
    together: with more answers than clusters the interval is over clusters. Where all values lie in [0, 1], so does
    the interval. `values` and `clusters` are [n]. `may_be_share`: False for a metric in a unit of its own, such as a
    rating from 1 to 5, whose values say nothing about its bounds.
    """
    independent = len(set(clusters)) == len(values)
    if may_be_share and set(values) <= {0.0, 1.0}:
        if independent:
            return rate(round(sum(values)), len(values))
        return clustered_rate([value == 1.0 for value in values], clusters)
    found = mean(values) if independent else clustered_mean(values, clusters)
    if found is None or not may_be_share or min(values) < 0 or max(values) > 1:
        return found
    return found.model_copy(update={"low": max(0.0, found.low), "high": min(1.0, found.high)})
