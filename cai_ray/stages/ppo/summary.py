"""What PPO did: the stage's summary, and the table at the end of a run.

Steps are noisy, so the first and the last tenth of them are compared, not two single steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.counters import EPISODES, JUDGE_TOKENS, OUTPUT_TOKENS
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.summaries.ppo import PpoSummary, Refresh
from cai_ray.metrics import training_keys as keys
from cai_ray.stages.cells import percent

PART = 0.1  # of the steps, at either end


class Shown(NamedTuple):
    """One line of the table."""

    metric: str  # key of metrics.jsonl
    title: str
    form: str  # of format()


LINES = (
    Shown(keys.SCORE, "reward", "+.3f"),
    Shown(keys.UNREAD, "without a verdict", ".1%"),
    Shown(keys.JUDGE_TOKENS, "tokens of the judge", ",.0f"),
    Shown(keys.JUDGE_S, "seconds until the judge is done", ".2f"),
    Shown(keys.KL, "KL from the start, nats per answer", ".2f"),
    Shown(keys.KL_COEFFICIENT, "KL coefficient", ".4g"),
    Shown(keys.ENTROPY, "entropy, nats per token", ".3f"),
    Shown(keys.LENGTH, "length, tokens", ".1f"),
    Shown(keys.TRUNCATED, "cut off", ".1%"),
    Shown(keys.REFUSAL_RATE, "refusals", ".1%"),
    Shown(keys.EVASIVE_RATE, "evasive refusals", ".1%"),
    Shown(keys.BOILERPLATE_RATE, "carry a phrase said to many", ".1%"),
    Shown(keys.DISTINCT, "distinct-2", ".3f"),
    Shown(keys.EXPLAINED_VARIANCE, "explained variance of returns", ".2f"),
    Shown(keys.CLIP_FRACTION, "clipped ratios", ".1%"),
    Shown(keys.OUTLIERS, "tokens left out as outliers", ".2%"),
    Shown(keys.SAMPLER_GAP, "sampler-learner gap, nats per token", ".2g"),
    Shown(keys.EPISODES_PER_S, "answers per second", ",.1f"),
    Shown(keys.TOKENS_PER_S, "sampled tokens per second", ",.0f"),
    Shown(keys.ENGINE_IDLE, "engines idle", ".1%"),
)


def steps_of(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of each step as it was done last, in order; events left out."""
    done = {entry[keys.STEP]: dict(entry) for entry in entries if keys.STEP in entry and keys.EVENT not in entry}
    return [done[step] for step in sorted(done)]


def refreshes_of(entries: Sequence[Mapping[str, Any]]) -> list[Refresh]:
    """Each refresh of the preference model as it was done last, in order."""
    done = {entry[keys.REFRESH]: Refresh.model_validate(entry) for entry in entries if keys.REFRESH in entry}
    return [done[number] for number in sorted(done)]


def mean_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metric -> mean over the steps that have it."""
    names = {name for step in steps for name in step} - keys.PLACES
    values = {name: [step[name] for step in steps if step.get(name) is not None] for name in names}
    return {name: fmean(found) for name, found in sorted(values.items()) if found}


def reward_name(config: Mapping[str, Any]) -> str:
    """ "preference_model", "refresh", "constitution rating": by a stage's settings."""
    reward = config.get("reward", {"kind": "preference_model"})
    return " ".join(reward[name] for name in ("kind", "reading") if name in reward)


def summarise(artifact: Artifact) -> PpoSummary:
    """Both ends of the stage's metrics, and all of them."""
    manifest = artifact.manifest
    entries = parse_metrics(read_metrics(artifact.folder))
    steps = steps_of(entries)
    num = max(1, round(PART * len(steps)))
    return PpoSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        num_steps=len(steps),
        num_episodes=manifest.counters.get(EPISODES, 0),
        num_output_tokens=manifest.counters.get(OUTPUT_TOKENS, 0),
        steps_compared=num,
        first=mean_of(steps[:num]),
        last=mean_of(steps[-num:]),
        mean=mean_of(steps),
        updates_skipped=sum(step.get(keys.UPDATES_SKIPPED) or 0 for step in steps),
        events=tuple(entry[keys.EVENT] for entry in entries if keys.EVENT in entry),
        duration_s=manifest.duration_s,
        reward=reward_name(manifest.config),
        num_judge_tokens=manifest.counters.get(JUDGE_TOKENS, 0),
        refreshes=tuple(refreshes_of(entries)),
    )


def table(summary: PpoSummary) -> Table:
    """The first steps beside the last, for the terminal."""
    num = summary.steps_compared
    reward = summary.reward.replace("_", " ")
    shown = Table(title=f"PPO: {summary.num_steps:,} steps, {summary.num_episodes:,} answers, reward by {reward}")
    shown.add_column("per step, over all its answers")
    for name in (f"first {num}", f"last {num}"):
        shown.add_column(name, justify="right")
    for line in LINES:
        values = [part.get(line.metric) for part in (summary.first, summary.last)]
        if any(value is not None for value in values):
            shown.add_row(line.title, *("-" if value is None else format(value, line.form) for value in values))
    if summary.refreshes:
        shown.add_section()
        shown.add_row("right on held-out fresh pairs", "before", "after")
    for refresh in summary.refreshes:
        shares = (refresh.figures.get(keys.refresh_fit("held_out", "accuracy", when)) for when in ("before", "after"))
        told = ("-" if share is None else percent(share) for share in shares)
        shown.add_row(f"refresh {refresh.refresh}, after step {refresh.step:,}", *told)
    return shown
