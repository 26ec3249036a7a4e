"""The summary of `train_preference_model`: how good it is on the evaluation pairs, and what its scores are like.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.calibration import Calibration
from cai_ray.metrics.intervals import Estimate


class SourceScores(Config):
    """The model on the evaluation pairs of one source of labels."""

    num_pairs: int = Field(description="Evaluation pairs, >= 1.")
    accuracy: Estimate = Field(
        description="Share in [0, 1] of pairs whose chosen answer scores higher, over prompts; a tie is no hit."
    )
    calibration: Calibration = Field(
        description="P(chosen) = sigmoid(score difference) against the label's probability; confidence in [0.5, 1]."
    )


class ScoreFacts(Config):
    """How the model reads a conversation, and its scores of the training answers; as its config.json says it."""

    scored_token: str = Field(description="The token that ends a scored answer, as text.")
    system_role: str = Field(description='What becomes of a system message: "native" (kept), "fold" or "drop".')
    score_mean: float = Field(description="Mean score of the training answers after centring, near 0; score units.")
    score_std: float = Field(description="Their standard deviation, score units, >= 0.")
    score_offset: float = Field(description="What centring took off every score, score units.")
    score_noise: float = Field(
        description="Standard deviation of what else centring changed in the scores, score units, >= 0."
    )
    num_answers: int = Field(description="Training answers that these are of, >= 1.")


class PreferenceModelSummary(RowsSummary):
    """Of the trained model."""

    targets: str = Field(description='What it was trained on: "soft", the labels\' probabilities, or "hard".')
    sources: dict[str, SourceScores] = Field(
        description='Source of labels, "ai" or "human" -> the model on its evaluation pairs; none without such pairs.'
    )
    scores: ScoreFacts = Field(description="How it scores.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
