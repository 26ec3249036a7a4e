"""The summary of `abliterate`: which direction, and what each form of the model does without it.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.intervals import Estimate


class FormFigures(Config):
    """One form of the model on the test prompts; None where nothing could be estimated."""

    form: str = Field(description='"as_is", "ablated", "reverse", or "ablated_weights" (approximate, behind norms).')
    refuses_harmful: Estimate | None = Field(description="Share of harmful prompts refused, by phrases.")
    refuses_harmless: Estimate | None = Field(description="Share of harmless prompts refused.")
    first_token_kl: Estimate | None = Field(description="Nats, on harmless prompts, from the model as it is.")
    nats_per_token: Estimate | None = Field(description="Of the unchanged model's answers to harmless prompts.")
    nats_per_token_more: Estimate | None = Field(
        description="The same less the unchanged model's, paired; exp of it is the factor on perplexity."
    )
    gap_kl: Estimate | None = Field(None, description="Nats, from the run-time form; of the approximate weight form.")


class AbliterationSummary(RowsSummary):
    """What was found and what came of it; intervals are over prompts."""

    layer: int = Field(description="Whose input the direction was found in, >= 1.")
    position: int = Field(description="Of the prompt's last tokens; -1 is the last.")
    validation_kl: float = Field(description="Nats, of the first token of harmless validation prompts.")
    num_refused: int = Field(description="Harmful training prompts that the unchanged model refuses.")
    num_harmful: int = Field(description="Of so many.")
    is_exact: bool = Field(description="Whether `ablated` is a weight form; else a run-time form.")
    forms: tuple[FormFigures, ...] = Field(description="The unchanged model first.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
