"""What the paper's findings are measured by in the micro world: stages' files against the oracle."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import pyarrow.parquet as pq

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.metrics.calibration import calibration, sigmoid
from cai_ray.metrics.differences import paired_difference
from cai_ray.metrics.diversity import distinct
from cai_ray.metrics.evaluations import estimate
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.training_keys import (
    DUAL_CLIP_FRACTION,
    JUDGE_CACHED_TOKENS,
    JUDGE_S,
    JUDGE_TOKENS,
    OUTLIERS,
    UNREAD,
    UPDATES_SKIPPED,
)
from cai_ray.microworld.oracle import score
from cai_ray.stages.preferences.preference_model_summary import EVAL_SCORES
from cai_ray.stages.report.training import truth_by_step
from cai_ray.stages.revision.summary import answers

LAST_STEPS = 4
LOST = 0.1
ByPrompt = dict[str, float]
METRICS = ("harmful", "evasive", "helpful")
MONITORS = ("score", "kl", "entropy", "distinct", "length", "boilerplate_rate", "refusal_rate", "explained_variance")


def by_round(revised: Artifact) -> list[dict[str, ByPrompt]]:
    """For the initial answer and each revision: metric -> prompt -> the oracle's value.

    harmful and evasive are of harmful requests, helpful of the others.
    """
    found: list[dict[str, ByPrompt]] = []
    for row in revised.rows(["prompt_id", "messages", "initial_response", "revisions"]):
        for k, text in enumerate(answers(row)):
            if k == len(found):
                found.append({metric: {} for metric in METRICS})
            truth = score(row["messages"], text)
            if truth.request_harmful:
                found[k]["harmful"][row["prompt_id"]] = float(truth.harmful)
                found[k]["evasive"][row["prompt_id"]] = float(truth.evasive)
            elif truth.request_harmful is not None:
                found[k]["helpful"][row["prompt_id"]] = truth.helpful
    return found


def estimates(values: Mapping[str, ByPrompt]) -> dict[str, Estimate]:
    """metric -> the mean over prompts; without metrics that no prompt has."""
    found = {metric: estimate(list(own.values()), list(own)) for metric, own in values.items() if own}
    return {metric: one for metric, one in found.items() if one is not None}


def differences(before: Mapping[str, ByPrompt], after: Mapping[str, ByPrompt]) -> dict[str, Estimate]:
    """metric -> after less before, paired by prompt."""
    found = {metric: paired_difference(before[metric], after[metric]) for metric in before if metric in after}
    return {metric: one for metric, one in found.items() if one is not None}


def last_answers(revised: Artifact) -> list[str]:
    """The last revision of every prompt, in order of the prompts' ids, so that runs can be compared."""
    rows = sorted(revised.rows(["prompt_id", "initial_response", "revisions"]), key=lambda row: row["prompt_id"])
    return [answers(row)[-1] for row in rows]


def variety(texts: Sequence[str]) -> dict[str, float]:
    """How different texts are: distinct words and 2-grams over all of them, and the share said only once or first."""
    return {
        "distinct_1": distinct(texts, 1) or 0.0,
        "distinct_2": distinct(texts, 2) or 0.0,
        "distinct_texts": len(set(texts)) / len(texts),
    }


def against_the_truth(preference_model: Artifact) -> dict[str, Any]:
    """The preference model on held-out AI-labelled pairs, against the oracle in place of the labels.

    accuracy: of the pairs that the oracle does not call even, the share that the model ranks as it does. log_loss in
    nats and ece in [0, 1]: of its probability that the truly better answer is better, either way round.
    """
    scores = pq.read_table(io.BytesIO(preference_model.folder.read(EVAL_SCORES))).to_pylist()
    texts = {row["pair_id"]: row for row in preference_model.rows(["pair_id", "prompt", "chosen", "rejected"])}
    probs, targets, prompts = [], [], []
    for row in scores:
        if row["label_source"] != "ai":
            continue
        pair = texts[row["pair_id"]]
        worth = [_worth(pair["prompt"], pair[side][-1]["content"]) for side in ("chosen", "rejected")]
        if worth[0] != worth[1]:
            probs.append(sigmoid(row["score_chosen"] - row["score_rejected"]))
            targets.append(float(worth[0] > worth[1]))
            prompts.append(row["prompt_id"])
    hits = [float((prob > 0.5) == (target > 0.5)) for prob, target in zip(probs, targets, strict=True)]
    # Both ways round: which answer a label calls chosen must not decide the bins.
    both = calibration([*probs, *(1 - p for p in probs)], [*targets, *(1 - t for t in targets)])
    found = estimate(hits, prompts)
    return {
        "num_pairs": len(probs),
        "accuracy": found,
        "log_loss": both.log_loss if both else None,
        "ece": both.ece if both else None,
        "mean_margin": fmean(abs(math.log(p / (1 - p))) if 0 < p < 1 else 37.0 for p in probs) if probs else None,
    }


def _worth(messages: Sequence[dict[str, str]], text: str) -> float:
    truth = score(messages, text)
    return truth.helpful - float(truth.harmful)


def course(trained: Artifact, num_parts: int) -> dict[str, list[float]]:
    """A PPO run's monitors, and the oracle on its kept answers, as means over `num_parts` parts of its steps."""
    steps: dict[float, dict[str, float]] = {}
    for entry in parse_metrics(read_metrics(trained.folder)):
        if "step" in entry:
            steps[entry["step"]] = {name: entry[name] for name in MONITORS if name in entry}
    for name, values in truth_by_step(trained.rows()).items():
        for step, value in values.items():
            steps.setdefault(step, {})[name] = value
    last = max(steps)
    found: dict[str, list[list[float]]] = {}
    for step, measured in steps.items():
        part = min(num_parts - 1, int(num_parts * (step - 1) / last))
        for name, value in measured.items():
            found.setdefault(name, [[] for _ in range(num_parts)])[part].append(value)
    return {name: [fmean(own) if own else math.nan for own in parts] for name, parts in found.items()}


def updates(trained: Artifact) -> dict[str, float]:
    """A PPO run's updates: how many were asked for and thrown away, and of the others the shares of bounded tokens."""
    steps = [entry for entry in parse_metrics(read_metrics(trained.folder)) if "updates" in entry]
    shares = {name: [step[name] for step in steps if name in step] for name in (DUAL_CLIP_FRACTION, OUTLIERS)}
    return {
        "updates": sum(step["updates"] for step in steps),
        UPDATES_SKIPPED: sum(step[UPDATES_SKIPPED] for step in steps),
        "largest_ratio": max(step["ratio_max"] for step in steps if "ratio_max" in step),
        "kl": steps[-1]["kl"],
        **{name: fmean(values) for name, values in shares.items() if values},
    }


def reward_costs(trained: Artifact) -> dict[str, float]:
    """A PPO run's steps: the median's seconds, a judge's tokens and seconds on average; the last ones' KL.

    And the share of answers that are mostly stock phrases: at the first step, which is SL-CAI's, and at the last ones.
    """
    steps = [entry for entry in parse_metrics(read_metrics(trained.folder)) if "step_s" in entry]
    last = steps[-LAST_STEPS:]
    found = {
        "step_s": median(step["step_s"] for step in steps),
        "kl_at_the_end": fmean(step["kl"] for step in last),
        "boilerplate_at_first": steps[0]["boilerplate_rate"],
        "boilerplate_at_the_end": fmean(step["boilerplate_rate"] for step in last),
    }
    for name in (JUDGE_TOKENS, JUDGE_CACHED_TOKENS, JUDGE_S, UNREAD):
        found[name] = fmean(step.get(name, 0.0) for step in steps)
    return found


def held_until(trained: Artifact) -> dict[str, float]:
    """After how many steps the oracle first says that the answers went elsewhere, and what the KL was by then.

    Elsewhere: over `LAST_STEPS` steps kept answers to harmless requests lose `LOST` of what the first ones were worth,
    or those to harmful ones do more harm than these by as much. The number of steps where that never happens.
    """
    truth = truth_by_step(trained.rows())
    kl = {entry["step"]: entry["kl"] for entry in parse_metrics(read_metrics(trained.folder)) if "kl" in entry}
    helpful, harmful = (
        [truth[name][step] for step in sorted(truth[name])] for name in ("oracle_helpful", "oracle_harmful")
    )

    def window(values: Sequence[float], end: int) -> float:
        return fmean(values[max(0, end - LAST_STEPS) : end])

    num = min(len(helpful), len(harmful))
    for end in range(LAST_STEPS + 1, num + 1):
        lost = window(helpful, LAST_STEPS) - window(helpful, end)
        if max(lost, window(harmful, end) - window(harmful, LAST_STEPS)) > LOST:
            return {"step": float(end), "kl": kl[end], "went": 1.0}
    return {"step": float(num), "kl": kl[num], "went": 0.0}


def pooled(seeds: Sequence[Mapping[str, float] | Estimate | None]) -> dict[str, Any] | None:
    """Estimates of several seeds as one: the mean of their values, and the interval of that mean.

    The interval is of this mean over these seeds: it holds the sampling error within each, which is independent
    between them, and not how much further seeds would differ. That is what `per_seed` shows. None without any.
    """
    known = [one.model_dump() if isinstance(one, Estimate) else dict(one) for one in seeds if one is not None]
    if not known:
        return None
    value = fmean(one["value"] for one in known)
    below = math.sqrt(sum((one["value"] - one["low"]) ** 2 for one in known)) / len(known)
    above = math.sqrt(sum((one["high"] - one["value"]) ** 2 for one in known)) / len(known)
    return {
        "value": value,
        "low": value - below,
        "high": value + above,
        "n": sum(one["n"] for one in known),
        "per_seed": [one["value"] for one in known],
    }
