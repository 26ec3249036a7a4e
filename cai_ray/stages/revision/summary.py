"""What the revise stage did, round by round: `<run>/revise/summary.json` and the table at the end of a run.

Where the prompts are the micro world's, its oracle scores every answer exactly; elsewhere harm needs the
scorers of `evaluate`, and the summary holds what can be counted without one.

Tested in tests/pipeline/test_steps.py.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import Config
from cai_ray.metrics.intervals import Estimate, mean, rate

SUMMARY = "summary.json"


class RoundScores(Config):
    """Oracle scores of all dialogues' answers at one point: index 0 is the initial answer, k is revision k."""

    harmful_rate: list[Estimate]  # of harmful requests, the share answered harmfully
    harmless_helpfulness: list[Estimate]  # mean helpfulness in [0, 1] on harmless requests
    evasive_rate: list[Estimate]  # of harmful requests, the share refused without reason or alternative
    meta_rate: list[Estimate]  # share of answers that carry a remark about the revision


def answers(row: dict[str, Any]) -> list[str]:
    """The initial answer and each revision, in order."""
    return [row["initial_response"], *(done["revision"] for done in row["revisions"])]


def oracle_scores(artifact: Artifact) -> RoundScores | None:
    """Scores by the micro world's oracle; None when the prompts are not in its language."""
    from cai_ray.microworld.oracle import score

    harmful: dict[int, list[bool]] = defaultdict(list)
    evasive: dict[int, list[bool]] = defaultdict(list)
    helpful: dict[int, list[float]] = defaultdict(list)
    meta: dict[int, list[bool]] = defaultdict(list)
    for row in artifact.rows(["messages", "initial_response", "revisions"]):
        for k, text in enumerate(answers(row)):
            truth = score(row["messages"], text)
            if truth.request_harmful is None:
                continue
            meta[k].append(truth.has_meta)
            if truth.request_harmful:
                harmful[k].append(truth.harmful)
                evasive[k].append(truth.evasive)
            else:
                helpful[k].append(truth.helpful)
    if not meta:
        return None
    return RoundScores(
        harmful_rate=_rates(harmful),
        harmless_helpfulness=[estimate for k in sorted(helpful) if (estimate := mean(helpful[k]))],
        evasive_rate=_rates(evasive),
        meta_rate=_rates(meta),
    )


def _rates(hits: dict[int, list[bool]]) -> list[Estimate]:
    return [estimate for k in sorted(hits) if (estimate := rate(sum(hits[k]), len(hits[k])))]


def summarise(artifact: Artifact) -> dict[str, Any]:
    """Count the stage's rows, write `summary.json` beside its manifest and return it."""
    manifest = artifact.manifest
    principles: Counter[str] = Counter()
    rounds: Counter[int] = Counter()
    for row in artifact.rows(["revisions"]):
        rounds[len(row["revisions"])] += 1
        principles.update(done["principle_id"] for done in row["revisions"])
    scores = oracle_scores(artifact)
    summary = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_dropped": manifest.rows_dropped,
        "num_rounds": {str(k): count for k, count in sorted(rounds.items())},
        "principles": dict(sorted(principles.items())),
        "counters": manifest.counters,
        "duration_s": manifest.duration_s,
        **(scores.model_dump() if scores else {}),
    }
    artifact.folder.write(SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def read_summary(artifact: Artifact) -> dict[str, Any]:
    """The summary, written now if a crash came between the manifest and it."""
    return artifact.written(SUMMARY, summarise)


def table(summary: dict[str, Any]) -> Table | None:
    """The oracle's harmful rate per round, for the terminal; None without an oracle."""
    if "harmful_rate" not in summary:
        return None
    shown = Table(title="Micro world, scored by its oracle (95% intervals)")
    for name in ("answer", "harmful (harmful requests)", "evasive (harmful requests)", "helpful (harmless requests)"):
        shown.add_column(name, justify="left" if name == "answer" else "right")
    for k in range(len(summary["harmful_rate"])):
        shown.add_row(
            "initial" if k == 0 else f"revision {k}",
            *(_cell(summary[key], k) for key in ("harmful_rate", "evasive_rate", "harmless_helpfulness")),
        )
    return shown


def _cell(estimates: list[dict[str, float]], k: int) -> str:
    if k >= len(estimates):
        return "-"
    estimate = estimates[k]
    return f"{estimate['value']:6.1%}  [{max(0.0, estimate['low']):.1%}, {min(1.0, estimate['high']):.1%}]"
