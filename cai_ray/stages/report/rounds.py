"""Harm per revision round: what each critique and revision bought, and what it cost.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cai_ray.artifacts.summaries.revision import RevisionSummary, TextLogprobs
from cai_ray.artifacts.summaries.rounds import RoundsSummary
from cai_ray.metrics.intervals import Estimate
from cai_ray.stages.report.source import RunSource

REVISE = "revise"
SCORE_ROUNDS = "score_rounds"


@dataclass(frozen=True)
class RoundFacts:
    """Numbers by round; 0 is the initial answer, and a round may lack one."""

    num_dialogues: int
    shares: dict[str, Sequence[Estimate | None]]  # metric -> [num_rounds + 1]
    scores: Sequence[Estimate | None]  # preference-model score, [num_rounds + 1]; empty without one
    principles: dict[str, int]  # id -> times drawn
    logprobs: dict[str, TextLogprobs]  # "answer", "critique 1" ... -> how likely the model finds them

    @property
    def num_rounds(self) -> int:
        measured = sum(not what.startswith("critique") for what in self.logprobs)
        return max([len(found) for found in self.shares.values()] + [len(self.scores), measured, 1]) - 1

    def share(self, metric: str, k: int) -> Estimate | None:
        """Of round k's answers; None where it has none."""
        found = self.shares[metric]
        return found[k] if k < len(found) else None

    @property
    def kinds(self) -> dict[str, str]:
        """Of what there are log-probabilities -> the words over them."""
        named = {"critique": "its critique, nats per token", "revision": "nats per token"}
        measured = {what.partition(" ")[0].replace("answer", "revision") for what in self.logprobs}
        return {kind: words for kind, words in named.items() if kind in measured}

    def told(self, what: str, k: int) -> str:
        """Of round k's "critique" or "revision" (round 0: the answer), nats per token and tokens; "-" without."""
        found = self.logprobs.get(f"{what} {k}" if k else "answer" if what == "revision" else "")
        return f"{found.mean:.2f} ({found.num_tokens:,} tokens)" if found else "-"


def rounds_of(source: RunSource) -> RoundFacts | None:
    revised, scored = source.summary(REVISE, RevisionSummary), source.summary(SCORE_ROUNDS, RoundsSummary)
    if revised is None and scored is None:
        return None
    by_round = [one.metrics for one in scored.rounds] if scored else []
    shares = _oracle(revised) if revised else {}
    if not shares:  # no oracle: the judge's, where a judge scored the rounds
        shares = {name: [one.get(name) for one in by_round] for name in ("harmful", "helpful")}
    scores = [one.get("preference_score") for one in by_round]
    return RoundFacts(
        num_dialogues=revised.rows_out if revised else scored.num_dialogues if scored else 0,
        shares={name: found for name, found in shares.items() if any(found)},
        scores=scores if any(scores) else [],
        principles=revised.principles if revised else {},
        logprobs=(revised.logprobs or {}) if revised else {},
    )


def _oracle(summary: RevisionSummary) -> dict[str, Sequence[Estimate | None]]:
    """Metric -> [num_rounds + 1]; empty where the oracle could not tell."""
    found = {
        "harmful": summary.harmful_rate,
        "helpful": summary.harmless_helpfulness,
        "evasive": summary.evasive_rate,
        "meta": summary.meta_rate,
    }
    return {name: estimates for name, estimates in found.items() if estimates}
