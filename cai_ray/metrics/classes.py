"""From a classifier's raw outputs to the probability of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai_ray.metrics.calibration import sigmoid


def label_probability(
    outputs: Sequence[float], labels: Sequence[str], wanted: Sequence[str], multi_label: bool = False
) -> float:
    """P(one of `wanted`) in [0, 1] from `outputs` ([num_labels], in the order of `labels`).

    Softmax, as one label is true; with `multi_label` each label is a yes or no of its own, and the likeliest wanted
    one counts. Raises ValueError for a wanted label that is not there, and for a single output without `multi_label`,
    whose softmax is always 1.
    """
    if len(outputs) != len(labels):
        raise ValueError(f"{len(outputs)} outputs for {len(labels)} labels; there must be one each")
    if unknown := [name for name in wanted if name not in labels]:
        raise ValueError(f"no label {', '.join(unknown)}; the model has {', '.join(labels)}")
    if not multi_label and len(labels) < 2:
        raise ValueError("one output has no probability; it is a score, for a judge of kind reward")
    chosen = [value for value, name in zip(outputs, labels, strict=True) if name in wanted]
    if multi_label:
        return max(sigmoid(value) for value in chosen)
    highest = max(outputs)
    total = math.fsum(math.exp(value - highest) for value in outputs)
    return min(1.0, math.fsum(math.exp(value - highest) for value in chosen) / total)
