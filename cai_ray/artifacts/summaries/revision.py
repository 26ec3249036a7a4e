"""The summary of `revise`: rows, rounds and principles, and harm by round where the micro world's oracle can tell.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.metrics.intervals import Estimate


class RevisionSummary(RowsSummary):
    """Of all dialogues. The oracle's lists are [num_rounds + 1], the initial answers first; None without the oracle."""

    num_rounds: dict[str, int] = Field(description="Rounds of a dialogue, as a decimal number -> dialogues, >= 1.")
    principles: dict[str, int] = Field(description="Principle id -> revisions that were asked by it, >= 1.")
    counters: dict[str, int] = Field(description="The manifest's: tokens, requests, flags; >= 0.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
    harmful_rate: tuple[Estimate, ...] | None = Field(
        None, description="Of harmful requests, the share in [0, 1] answered harmfully."
    )
    harmless_helpfulness: tuple[Estimate, ...] | None = Field(
        None, description="Mean helpfulness in [0, 1] on harmless requests; its interval may reach past that."
    )
    evasive_rate: tuple[Estimate, ...] | None = Field(
        None, description="Of harmful requests, the share in [0, 1] refused without a reason or an alternative."
    )
    meta_rate: tuple[Estimate, ...] | None = Field(
        None, description="Share in [0, 1] of answers that carry a remark about the revision."
    )
