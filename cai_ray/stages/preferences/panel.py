"""Several judges' labels of the same pairs become one: averaged by weight, and flagged where the judges part.  Pure.

A judge's label is the average of all that it was asked about a pair (metrics/readings.py); a pair that one judge could
not label is dropped, because an average over the others would favour the pairs that are easily judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, outcome
from cai_ray.dropped import DropReason, DropRow, drop_of
from cai_ray.metrics.readings import Bounds, flip_rate, is_tie, readings_of
from cai_ray.stages.preferences.labels_config import Config

CARRIED = ("pair_id", "prompt_id", "messages", "kind", "category", "split")  # Pair columns kept on the row
JUDGES_PART = "judges_part"  # flag: not all of the panel favour the same answer
_TOKENS = ("num_prompt_tokens", "num_cached_tokens", "num_output_tokens")


def preference(
    pair: Mapping[str, Any],
    prob_a: float,
    comparisons: Sequence[dict[str, Any]],
    bounds: Bounds | None,
    is_hard: bool,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """A row of PREFERENCE but for its tokens. `pair`: a row of PAIR; `bounds`: of P(the stored A is better)."""
    answers = (pair["response_a"], pair["response_b"])
    is_a = prob_a > 0.5
    low, high = (None, None) if bounds is None else bounds if is_a else (1 - bounds[1], 1 - bounds[0])
    return {
        **{column: pair[column] for column in CARRIED},
        "chosen": answers[not is_a],
        "rejected": answers[is_a],
        "chosen_is_a": is_a,
        "prob_chosen": 1.0 if is_hard else max(prob_a, 1 - prob_a),
        "prob_low": low,
        "prob_high": high,
        "order_flip_rate": flip_rate(readings_of(comparisons)),
        "label_source": "ai",
        "comparisons": comparisons,
        "flags": list(flags),
    }


def averaged(labelled: Sequence[Artifact], config: Config) -> Iterator[Outcome]:
    """The end of every pair; `labelled`: each judge's own rows, in the order of `config.models`."""
    dropped: dict[str, DropRow] = {}
    for judge, artifact in zip(config.models, labelled, strict=True):
        for gone in artifact.dropped():
            drop = drop_of(gone)
            named = DropRow(drop.reason, f"judge {judge.model}: {drop.detail}", drop.attempts)
            dropped.setdefault(gone["row_id"], named)
    first, *others = labelled
    columns = ("pair_id", "chosen_is_a", "prob_chosen", "prob_low", "prob_high", "comparisons", *_TOKENS)
    said = [{row["pair_id"]: row for row in artifact.rows(columns)} for artifact in others]
    for row in first.rows():
        if row["pair_id"] not in dropped:
            rows = [row, *(own[row["pair_id"]] for own in said)]
            yield outcome(row["pair_id"], partial(_average, rows, config))
    for pair_id, drop in dropped.items():
        yield Outcome(pair_id, drop)


def _average(rows: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """A row of PREFERENCE from the judges' own. Raises DropRow(TIE)."""
    probs = [_of_a(row, row["prob_chosen"]) for row in rows]
    weights = [judge.weight for judge in config.models]
    prob_a = fmean(probs, weights)
    if is_tie(prob_a, config.tie_margin):
        told = ", ".join(f"{judge.model} {prob:.4f}" for judge, prob in zip(config.models, probs, strict=True))
        raise DropRow(DropReason.TIE, f"P(A)={prob_a:.4f} ({told}), tie_margin={config.tie_margin}")
    comparisons = [
        comparison | {"judge": judge.model}
        for judge, row in zip(config.models, rows, strict=True)
        for comparison in row["comparisons"]
    ]
    bounds = None
    if all(row["prob_low"] is not None for row in rows):
        ends = [sorted((_of_a(row, row["prob_low"]), _of_a(row, row["prob_high"]))) for row in rows]
        bounds = (fmean([low for low, _ in ends], weights), fmean([high for _, high in ends], weights))
    first = rows[0]
    answers = (first["chosen"], first["rejected"])
    pair = dict(first) | {
        "response_a": answers[not first["chosen_is_a"]],
        "response_b": answers[first["chosen_is_a"]],
    }
    favours = {prob > 0.5 for prob in probs if not is_tie(prob, 0.0)}
    flags = [JUDGES_PART] if len(favours) > 1 else []
    made = preference(pair, prob_a, comparisons, bounds, config.labels == "hard", flags)
    return made | {name: sum(row[name] for row in rows) for name in _TOKENS}


def _of_a(row: Mapping[str, Any], prob: float) -> float:
    """A probability of the chosen answer as one of the stored A."""
    return prob if row["chosen_is_a"] else 1 - prob
