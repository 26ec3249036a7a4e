"""The whole recipe `smollm2-135m`, and what its rounds are worth as data: lengths, no-ops, refusals, flags, coherence.

Runs the recipe (an hour; a killed run goes on), then reads its files. Rows are accounted for stage by stage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml
from rapidfuzz.distance import Indel

from benchmarks import results_file
from benchmarks.real_model.recipe_run import CONVERSATIONS, finished_run, there
from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.metrics.diversity import self_repetition
from cai_ray.metrics.refusals import read
from cai_ray.quality.meta_commentary import has_meta_commentary

RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "smollm2-135m.yaml"
STAGES = (
    "load_prompts", "revise", "train_sft", "sample_pairs", "label_comparisons", "train_preference_model",
    "score_rounds", "train_ppo", "evaluate",
)  # fmt: skip
TAKEN = ("prompts", "revise", "sft", "pairs", "labels", "preference_model", "score_rounds", "ppo", "evaluate", "report")


def sections(scale: float) -> dict[str, Any]:
    """Those of the recipe, on so much of its prompts."""
    recipe = yaml.safe_load(RECIPE.read_text())
    [source] = recipe["prompts"]["sources"]
    source |= {"path": there(CONVERSATIONS), "limit": max(12, round(source["limit"] * scale))}
    found = {name: recipe[name] for name in TAKEN}
    if scale < 1:
        found["ppo"] = {**found["ppo"], "num_steps": 1, "prompts_per_step": 8}
    return found


def of_round(rows: Sequence[dict[str, Any]], k: int) -> dict[str, Any]:
    """The answers after k rounds; 0: the first ones."""
    texts = [row["revisions"][k - 1]["revision"] if k else row["initial_response"] for row in rows]
    first = [row["initial_response"] for row in rows]
    before = [row["revisions"][k - 2]["revision"] if k > 1 else row["initial_response"] for row in rows]
    flags = Counter(
        flag for row in rows for flag in set(row["revisions"][k - 1]["flags"] if k else row["initial_flags"])
    )
    num = len(texts)
    return {
        "characters": {"median": median(map(len, texts)), "mean": round(fmean(map(len, texts)), 1)},
        "like_the_first_answer": round(fmean(map(Indel.normalized_similarity, first, texts)), 3),
        "unchanged": round(sum(a == b for a, b in zip(before, texts, strict=True)) / num, 3) if k else None,
        "refusals": round(sum(read(text).refusal for text in texts) / num, 3),
        "meta_commentary_left": round(sum(map(has_meta_commentary, texts)) / num, 3),
        "repetition": round(fmean(map(self_repetition, texts)), 3),
        "flagged": {flag: round(count / num, 3) for flag, count in flags.most_common()},
    }


def accounts(run: Storage) -> dict[str, Any]:
    """Rows in and what became of them, by stage."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        artifact = find(run / stage)
        if artifact is None:
            found[stage] = {"finished": False}
            continue
        manifest = artifact.manifest
        gone = sum(manifest.rows_dropped.values()) + sum(manifest.rows_left_out.values())
        found[stage] = {
            "rows_in": manifest.rows_in,
            "rows_out": manifest.rows_out,
            "dropped": manifest.rows_dropped,
            "left_out": manifest.rows_left_out,
            "accounted_for": manifest.rows_in == manifest.rows_out + gone,
            "duration_s": round(manifest.duration_s, 1),
        }
    return found


def run(scale: float, folder: Path) -> None:
    """`scale`: of the recipe's prompts; below 1 PPO takes one step."""
    done = finished_run("pipeline", sections(scale))
    revised = find(done / "revise")
    assert revised is not None, "cai-ray run says that it finished"
    rows = [row for row in revised.rows() if row["revisions"]]
    summary = json.loads((done / "revise").read("summary.json"))
    labels = json.loads((done / "label_comparisons").read("summary.json"))
    figures = {
        "scale": scale,
        "rounds": [of_round(rows, k) for k in range(1 + len(rows[0]["revisions"]))],
        "logprobs": summary["logprobs"],
        "labels": {name: labels[name] for name in ("order_flip_rate", "position_bias")},
        "stages": accounts(done),
        "prompt_tokens": revised.manifest.counters["num_prompt_tokens"],
        "cached_tokens": revised.manifest.counters["num_cached_tokens"],
        "output_tokens": revised.manifest.counters["num_output_tokens"],
        "report": done.shown + "/report/report.html",
    }
    claim = "The recipe smollm2-135m from prompts to PPO: every row accounted for, and what its rounds are like"
    results_file.write("real_data", claim, figures, [0], folder, "python -m benchmarks.real_model data")
