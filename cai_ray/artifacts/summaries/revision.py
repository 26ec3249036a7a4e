"""The summary of `revise`: rows, rounds and principles, and harm by round where the micro world's oracle can tell.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.intervals import Estimate


class TextLogprobs(Config):
    """How likely the model finds what it wrote: of the measured texts of one kind, all of a small run's."""

    num_texts: int = Field(description=">= 1.")
    num_tokens: int = Field(description=">= 1.")
    mean: float = Field(description="Log-probability per token, nats at temperature 1, <= 0.")
    incoherent_share: float = Field(description="Of the texts, in [0, 1], below gates.incoherent_below.")


class RevisionSummary(RowsSummary):
    """Of all dialogues. The oracle's lists are [num_rounds + 1], the initial answers first; None without the oracle."""

    num_rounds: dict[str, int] = Field(description="Rounds of a dialogue, as a decimal number -> dialogues, >= 1.")
    principles: dict[str, int] = Field(description="Principle id -> revisions that were asked by it, >= 1.")
    counters: dict[str, int] = Field(description="The manifest's: tokens, requests, flags; >= 0.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
    logprobs: dict[str, TextLogprobs] | None = Field(
        None, description='"answer", "critique 1", "revision 1" ... -> of these texts; None where no engine told.'
    )
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
