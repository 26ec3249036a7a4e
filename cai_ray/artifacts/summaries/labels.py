"""The summary of `label_comparisons`: how sure and how steady the labels are, and whether they are right.

Intervals are over prompts, because pairs of one prompt hang together.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.calibration import Calibration
from cai_ray.metrics.intervals import Estimate


class PrincipleSummary(Config):
    """One principle's own label of the pairs it was drawn for; None where nothing could be estimated."""

    principle_id: str = Field(description="As the constitution calls it.")
    num_pairs: int = Field(description="Labelled pairs that it was drawn for, >= 1.")
    order_flip_rate: Estimate | None = Field(
        description="Of its questions put in both orders, the share in [0, 1] where the order decided."
    )
    extremity: Estimate | None = Field(description="Of its labels, in [0, 1]: 0 in doubt, 1 sure.")
    position_bias: Estimate | None = Field(
        description="Mean P(the answer shown as (A)) - 0.5, in [-0.5, 0.5]; 0 is none."
    )
    label_agreement: Estimate | None = Field(
        description="Share in [0, 1] of pairs on which it favours the answer that the label favours."
    )
    oracle_agreement: Estimate | None = Field(
        description="Share in [0, 1] of decided pairs on which it favours the answer that the oracle favours."
    )


class OracleSummary(Config):
    """Labels against the oracle's verdict on the pairs that it has decided; None where nothing could be estimated."""

    num_decided: int = Field(description="Pairs that the oracle has decided, >= 1.")
    agreement: Estimate | None = Field(
        description="Share in [0, 1] that favours the answer that the oracle favours; exactly 0.5 agrees with nobody."
    )
    brier: Estimate | None = Field(
        description="Squared difference of P(A) from the oracle's verdict, which is 0 or 1; in [0, 1]."
    )
    overconfidence: Estimate | None = Field(
        description="Confidence less agreement, in [-0.5, 1]: above 0 the labels are too sure, below 0 not enough."
    )
    calibration: Calibration | None = Field(description="Confidence in [0.5, 1] against the oracle's verdicts.")


class TwoJudges(Config):
    """Two of a panel."""

    first: str = Field(description="Model, as the recipe calls it.")
    second: str = Field(description="Likewise.")
    agreement: Estimate | None = Field(description="Share in [0, 1] of pairs on which both favour the same answer.")


class PanelSummary(Config):
    """How far a panel's judges are of one mind; None where nothing could be estimated."""

    alpha: float | None = Field(
        description="Krippendorff's alpha of their verdicts (nominal), at most 1; 0 is chance. Equals favour nobody."
    )
    alpha_of_probabilities: float | None = Field(description="The same of P(A), by squared distance.")
    parted: Estimate | None = Field(description="Share in [0, 1] of pairs on which not all favour the same answer.")
    pairwise: tuple[TwoJudges, ...] = Field(description="Every two judges.")


class LabelSummary(RowsSummary):
    """Of all labelled pairs; None where nothing could be estimated."""

    order_flip_rate: Estimate | None = Field(
        description="Of the questions put in both orders, the share in [0, 1] where the order decided."
    )
    extremity: Estimate | None = Field(description="Of the labels, in [0, 1]: 0 in doubt, 1 sure.")
    position_bias: Estimate | None = Field(
        description="Mean P(the answer shown as (A)) - 0.5, in [-0.5, 0.5]; 0 is none."
    )
    principle_agreement: Estimate | None = Field(
        description="Of pairs with several principles, the share in [0, 1] on which all favour the same answer."
    )
    panel: PanelSummary | None = Field(None, description="Of several judges; None where there was one.")
    principles: tuple[PrincipleSummary, ...] = Field(description="Of each principle that was drawn, by id.")
    oracle: dict[str, OracleSummary] = Field(
        description='What P(A) is made from ("one reading", "both orders", ..., "label": as it was written) -> what it '
        "is worth; empty where the oracle has decided no pair."
    )
    counters: dict[str, int] = Field(description="The manifest's: tokens, requests, flags; >= 0.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
