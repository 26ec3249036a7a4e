"""The recipe's section `abliterate`.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.config import ScalingConfig, StageConfig

STAGE = "abliterate"
ABLATED, REVERSE, WEIGHTS = "ablated", "reverse", "ablated_weights"  # models it makes, and forms it measures
HARMFUL, HARMLESS = "harmful", "harmless"


class Config(StageConfig):
    """Of `abliterate`: prompts of kind red_team are the harmful ones, those of kind helpful the harmless ones."""

    model: str = Field("policy", description="Which of the recipe's models loses its direction of refusal.")
    num_train: int = Field(128, ge=1, description="Prompts of each class whose activations are averaged.")
    num_validation: int = Field(32, ge=1, description="Prompts of each class on which directions are compared.")
    num_test: int = Field(
        100, ge=1, description="Prompts of each class that measure the result: of split test where there are any."
    )
    min_prompts: int = Field(8, ge=1, description="Fewest refused harmful and answered harmless prompts to average.")
    positions: int | None = Field(
        None, ge=1, description="How many of the last prompt tokens are tried; null: all that the template ends in."
    )
    layer_step: int = Field(1, ge=1, description="Try every n-th layer; the last fifth is never tried.")
    max_kl: float = Field(
        0.1,
        gt=0,
        description="Most change of the first token of harmless answers, KL in nats, on the validation prompts.",
    )
    embeddings: bool = Field(True, description="Take the direction out of the embeddings too; tied ones are untied.")
    reverse_strength: float = Field(1.0, gt=0, description="Of the reverse: times the difference of the means.")
    max_tokens: int = Field(48, ge=4, description="Of each answer that is read for a refusal.")
    scaling: ScalingConfig = ScalingConfig()
