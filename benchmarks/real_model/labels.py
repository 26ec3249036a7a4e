"""AI labels against people: which of two answers of hh-rlhf did people choose, and what does the feedback model say?

The stage `labels` of the product on one set of pairs, in several ways of asking; which answer people chose it does not
read. A model of 135M parameters is near chance, and prefers a position: both figures are reported. Intervals are 95%,
over conversations. `orders: stored` shows each pair once, in the order that was drawn for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.real_model.recipe_run import CONVERSATIONS, finished_run, there
from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.metrics.calibration import pair_calibration
from cai_ray.metrics.intervals import clustered_mean, clustered_rate
from cai_ray.stages.preferences.label_comparisons import STAGE
from cai_ray.stages.preferences.pair_sources import PairSetConfig, read_pairs

NUM_PAIRS = 500
# Ways of asking: settings of the section, and the share of the pairs, because some ask 32 times as much.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "one_order": ({"orders": "stored"}, 1.0),
    "both_orders": ({}, 1.0),
    "four_principles": ({"principles_per_pair": 4}, 0.5),
    "sixteen_principles": ({"principles_per_pair": 16}, 0.2),
    "few_shot": ({"num_few_shot": 2}, 1.0),
    "chain_of_thought": ({"chain_of_thought": 1, "clamp": None, "truncated": "keep"}, 0.3),
    "five_chains_of_thought": ({"chain_of_thought": 5, "clamp": None, "truncated": "keep"}, 0.1),
}
# A model this small seldom comes to an end by itself; a chain that was cut counts with what it says.
COT_SAMPLING = {"max_tokens": 96, "temperature": 0.7, "top_p": 0.9}


def section(way: str, scale: float) -> dict[str, Any]:
    """The recipe's sections for one way of asking."""
    settings, share = WAYS[way]
    pairs = {"path": there(CONVERSATIONS), "name": "people", "limit": max(4, round(NUM_PAIRS * share * scale))}
    scaling = {"rows_per_task": 16, "rows_per_part": 64}
    labels = {"pairs": [pairs], "scaling": scaling, "max_dropped_fraction": 0.9, **settings}
    return {"labels": labels | ({"cot_sampling": COT_SAMPLING} if "chain_of_thought" in settings else {})}


def against_people(run: Storage, way: str, scale: float) -> dict[str, Any]:
    """How one way's labels compare with what people chose."""
    artifact = find(run / STAGE)
    if artifact is None:
        raise ConfigError(f"{run.shown}/{STAGE} did not finish")
    source = PairSetConfig.model_validate(section(way, scale)["labels"]["pairs"][0])
    chosen = {f"{source.source}:{number}": getattr(pair, "chosen", None) for number, pair in read_pairs(source)}
    right, probs, first, flips, clusters = [], [], [], [], []
    for row in artifact.rows():
        is_theirs = row["chosen"] == chosen[row["pair_id"]]
        prob = row["prob_chosen"] if is_theirs else 1 - row["prob_chosen"]
        right.append(prob > 0.5)
        probs.append(prob)
        clusters.append(row["prompt_id"])
        first += [(done["prob_a"] if not done["swapped"] else 1 - done["prob_a"]) - 0.5 for done in row["comparisons"]]
        flips += [row["order_flip_rate"]] if row["order_flip_rate"] is not None else []
    calibrated = pair_calibration(probs, [1.0] * len(probs))
    return {
        "pairs": len(probs),
        "dropped": artifact.manifest.rows_dropped,
        "agreement": results_file.rounded(clustered_rate(right, clusters)),
        "order_flip_rate": round(sum(flips) / len(flips), 4) if flips else None,
        "first_is_preferred_by": round(sum(first) / len(first), 4) if first else None,
        "mean_probability_of_their_choice": results_file.rounded(clustered_mean(probs, clusters)),
        "calibration": calibrated.model_dump() if calibrated else None,
        "duration_s": round(artifact.manifest.duration_s, 1),
    }


def run(scale: float, folder: Path) -> None:
    """`scale`: of the numbers of pairs (500 for the simple ways)."""
    figures = {}
    for way in WAYS:
        done = finished_run(f"labels-{way}", section(way, scale), model="feedback")
        figures[way] = against_people(done, way, scale)
        print(way, figures[way]["agreement"], flush=True)
    claim = "Labels of SmolLM2-135M-Instruct against people's choices in hh-rlhf, by way of asking"
    command = "python -m benchmarks.real_model labels"
    results_file.write("real_labels", claim, {"scale": scale, "ways": figures}, [0], folder, command)
