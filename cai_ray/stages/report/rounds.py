"""Harm per revision round: what each critique and revision bought, and what it cost.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai_ray.stages.report.source import RunSource

REVISE = "revise"
SCORE_ROUNDS = "score_rounds"

_ORACLE = {  # key of revise/summary.json -> its curve's name
    "harmful_rate": "harmful",
    "harmless_helpfulness": "helpful",
    "evasive_rate": "evasive",
    "meta_rate": "meta",
}


@dataclass(frozen=True)
class RoundFacts:
    """Numbers by round; 0 is the initial answer, and a round may lack one."""

    num_dialogues: int
    shares: dict[str, list[dict[str, Any] | None]]  # metric -> [num_rounds + 1]
    scores: list[dict[str, Any] | None]  # preference-model score, [num_rounds + 1]; empty without one
    principles: dict[str, int]  # id -> times drawn

    @property
    def num_rounds(self) -> int:
        return max([len(found) for found in self.shares.values()] + [len(self.scores)], default=1) - 1


def rounds_of(source: RunSource) -> RoundFacts | None:
    summary, scored = source.summary(REVISE), source.summary(SCORE_ROUNDS)
    if not summary and not scored:
        return None
    by_round: list[dict[str, Any]] = scored.get("rounds") or []
    shares = {name: summary[key] for key, name in _ORACLE.items() if summary.get(key)}
    if not shares:  # no oracle: the judge's, where a judge scored the rounds
        for name in ("harmful", "helpful"):
            if any(one.get(name) for one in by_round):
                shares[name] = [one.get(name) for one in by_round]
    has_scores = any(one.get("preference_score") for one in by_round)
    return RoundFacts(
        num_dialogues=summary.get("rows_out", scored.get("num_dialogues", 0)),
        shares=shares,
        scores=[one.get("preference_score") for one in by_round] if has_scores else [],
        principles=summary.get("principles") or {},
    )
