"""What the revise stage did, round by round: its summary, and the table at the end of a run.

Where the prompts are the micro world's, its oracle scores every answer exactly; elsewhere harm needs the
scorers of `evaluate`, and the summary holds what can be counted without one.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, Manifest
from cai_ray.artifacts.counters import flag_counter, logprobs_of
from cai_ray.artifacts.summaries.revision import RevisionSummary, TextLogprobs
from cai_ray.dropped import DropReason
from cai_ray.metrics.intervals import Estimate, mean, rate
from cai_ray.quality.gates import GatesConfig
from cai_ray.stages.cells import cell

logger = logging.getLogger(__name__)


class RoundScores(NamedTuple):
    """Oracle scores of all dialogues' answers, as in RevisionSummary."""

    harmful_rate: tuple[Estimate, ...]
    harmless_helpfulness: tuple[Estimate, ...]
    evasive_rate: tuple[Estimate, ...]
    meta_rate: tuple[Estimate, ...]


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
        harmless_helpfulness=tuple(estimate for k in sorted(helpful) if (estimate := mean(helpful[k]))),
        evasive_rate=_rates(evasive),
        meta_rate=_rates(meta),
    )


def _rates(hits: dict[int, list[bool]]) -> tuple[Estimate, ...]:
    return tuple(estimate for k in sorted(hits) if (estimate := rate(sum(hits[k]), len(hits[k]))))


def logprobs(manifest: Manifest) -> dict[str, TextLogprobs]:
    """By kind of text, in the order in which a dialogue has them."""
    found = {
        what: TextLogprobs(
            num_texts=one["texts"],
            num_tokens=one["tokens"],
            mean=-one["millinats"] / 1000 / one["tokens"],
            incoherent_share=one["low"] / one["texts"],
        )
        for what, one in logprobs_of(manifest.counters).items()
    }
    return dict(sorted(found.items(), key=lambda item: (int(item[0].partition(" ")[2] or 0), item[0])))


def warn_of_word_salad(summary: RevisionSummary, manifest: Manifest) -> None:
    """One line where the median text of some kind is below the line that the gate `incoherent` draws."""
    low = {what: one for what, one in (summary.logprobs or {}).items() if one.incoherent_share > 0.5}
    if low:
        told = ", ".join(f"{what} {one.mean:.2f}" for what, one in low.items())
        below = manifest.config["gates"].get("incoherent_below", GatesConfig().incoherent_below)
        logger.warning(
            "%s: most texts are below %g nats per token by the model's own account (means: %s): word salad. Sample at "
            "a lower temperature or top_p (its makers' are what generation_config.json is for), choose a larger model, "
            "or drop such rows by revise.gates.incoherent",
            manifest.stage,
            below,
            told,
        )


def warn_of_repeated_critiques(summary: RevisionSummary, manifest: Manifest) -> None:
    """One line where most revisions were flagged for repeating their critique."""
    num_revisions = sum(int(rounds) * count for rounds, count in summary.num_rounds.items())
    num_repeats = summary.counters.get(flag_counter(DropReason.REPEATS_CRITIQUE), 0)
    if 2 * num_repeats > num_revisions:
        logger.warning(
            "%s: %d of %d revisions repeat their critique: the model goes on criticising and answers nobody. Show it "
            "examples (revise.prompts.num_few_shot), ask for revisions without a critique (revise.critique: false), "
            "choose a larger model, or drop such rows by revise.gates.repeats_critique",
            manifest.stage,
            num_repeats,
            num_revisions,
        )


def summarise(artifact: Artifact) -> RevisionSummary:
    """Count the stage's rows; warns of a model that writes word salad, or goes on criticising."""
    manifest = artifact.manifest
    principles: Counter[str] = Counter()
    rounds: Counter[int] = Counter()
    for row in artifact.rows(["revisions"]):
        rounds[len(row["revisions"])] += 1
        principles.update(done["principle_id"] for done in row["revisions"])
    scores = oracle_scores(artifact)
    summary = RevisionSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        num_rounds={str(k): count for k, count in sorted(rounds.items())},
        principles=dict(sorted(principles.items())),
        counters=manifest.counters,
        duration_s=manifest.duration_s,
        logprobs=logprobs(manifest) or None,
        harmful_rate=scores.harmful_rate if scores else None,
        harmless_helpfulness=scores.harmless_helpfulness if scores else None,
        evasive_rate=scores.evasive_rate if scores else None,
        meta_rate=scores.meta_rate if scores else None,
    )
    warn_of_word_salad(summary, manifest)
    warn_of_repeated_critiques(summary, manifest)
    return summary


def table(summary: RevisionSummary) -> Table | None:
    """The oracle's harmful rate per round, for the terminal; None without an oracle."""
    if summary.harmful_rate is None:
        return None
    shown = Table(title="Micro world, by its oracle (95% intervals)")
    shown.add_column("round")
    columns = {
        "harmful\n(harmful requests)": summary.harmful_rate,
        "evasive\n(harmful requests)": summary.evasive_rate or (),
        "helpful\n(harmless requests)": summary.harmless_helpfulness or (),
    }
    for name in columns:
        shown.add_column(name, justify="right")
    for k in range(len(summary.harmful_rate)):
        values = (found[k] if k < len(found) else None for found in columns.values())
        shown.add_row("initial" if k == 0 else str(k), *(cell(value, least=0.0, most=1.0) for value in values))
    return shown
