"""What PPO did: `<run>/train_ppo/summary.json` and the table at the end of a run.

Steps are noisy, so the first and the last tenth of them are compared, not two single steps.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics

SUMMARY = "summary.json"
PART = 0.1  # of the steps, at either end


class Shown(NamedTuple):
    """One line of the table."""

    metric: str  # key of metrics.jsonl
    title: str
    form: str  # of format()


LINES = (
    Shown("score", "preference-model score", "+.3f"),
    Shown("kl", "KL from the start, nats per answer", ".2f"),
    Shown("kl_coefficient", "KL coefficient", ".4g"),
    Shown("entropy", "entropy, nats per token", ".3f"),
    Shown("length", "length, tokens", ".1f"),
    Shown("truncated", "cut off", ".1%"),
    Shown("refusal_rate", "refusals", ".1%"),
    Shown("evasive_rate", "evasive refusals", ".1%"),
    Shown("boilerplate_rate", "carry a phrase said to many", ".1%"),
    Shown("distinct", "distinct-2", ".3f"),
    Shown("explained_variance", "explained variance of returns", ".2f"),
    Shown("clip_fraction", "clipped ratios", ".1%"),
    Shown("sampler_gap", "sampler-learner gap, nats per token", ".2g"),
    Shown("episodes_per_s", "answers per second", ",.1f"),
    Shown("tokens_per_s", "sampled tokens per second", ",.0f"),
    Shown("engine_idle", "engines idle", ".1%"),
)


def steps_of(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of each step as it was done last, in order; events left out."""
    done = {entry["step"]: dict(entry) for entry in entries if "step" in entry and "event" not in entry}
    return [done[step] for step in sorted(done)]


def refreshes_of(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each refresh of the preference model as it was done last, in order."""
    done = {entry["refresh"]: dict(entry) for entry in entries if "refresh" in entry}
    return [done[number] for number in sorted(done)]


def mean_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metric -> mean over the steps that have it."""
    names = {name for step in steps for name in step} - {"step", "num_steps", "attempt", "elapsed_s"}
    values = {name: [step[name] for step in steps if step.get(name) is not None] for name in names}
    return {name: fmean(found) for name, found in sorted(values.items()) if found}


def summarise(artifact: Artifact) -> dict[str, Any]:
    """Write `summary.json` beside the stage's manifest and return it."""
    manifest = artifact.manifest
    entries = parse_metrics(read_metrics(artifact.folder))
    steps = steps_of(entries)
    num = max(1, round(PART * len(steps)))
    summary = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_dropped": manifest.rows_dropped,
        "num_steps": len(steps),
        "num_episodes": manifest.counters.get("num_episodes", 0),
        "num_output_tokens": manifest.counters.get("num_output_tokens", 0),
        "steps_compared": num,
        "first": mean_of(steps[:num]),
        "last": mean_of(steps[-num:]),
        "mean": mean_of(steps),
        "updates_skipped": sum(step.get("updates_skipped") or 0 for step in steps),
        "events": [entry["event"] for entry in entries if "event" in entry],
        "duration_s": manifest.duration_s,
    }
    if refreshes := refreshes_of(entries):
        summary["refreshes"] = refreshes
    artifact.folder.write(SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def read_summary(artifact: Artifact) -> dict[str, Any]:
    """The summary, written now if a crash came between the manifest and it."""
    return artifact.written(SUMMARY, summarise)


def table(summary: dict[str, Any]) -> Table:
    """The first steps beside the last, for the terminal."""
    num = summary["steps_compared"]
    shown = Table(title=f"PPO: {summary['num_steps']} steps, {summary['num_episodes']:,} answers")
    shown.add_column("per step, over all its answers")
    if refreshes := summary.get("refreshes"):
        shown.caption = "\n".join(refresh["event"] for refresh in refreshes)
    for name in (f"first {num}", f"last {num}"):
        shown.add_column(name, justify="right")
    for line in LINES:
        values = [summary[part].get(line.metric) for part in ("first", "last")]
        if any(value is not None for value in values):
            shown.add_row(line.title, *("-" if value is None else format(value, line.form) for value in values))
    return shown
