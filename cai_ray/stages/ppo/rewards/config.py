"""The recipe's section `ppo.reward`: where the reward comes from.

Tested in tests/stages/ppo/test_config.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cai_ray.config import Config
from cai_ray.constitution.draw import PrincipleChoice
from cai_ray.engines.placement import EnginesConfig
from cai_ray.stages.ppo.refresh.config import RefreshConfig

Reading = Literal["rating", "rubric", "pairwise"]


class PreferenceModelReward(Config):
    """The score of `ppo.preference_model`, as it was trained."""

    kind: Literal["preference_model"] = "preference_model"


class RefreshedReward(RefreshConfig):
    """The score of `ppo.preference_model`, which goes on learning from fresh pairs of the policy's answers."""

    kind: Literal["refresh"] = "refresh"


class ConstitutionReward(Config):
    """What a feedback model says of the answers under drawn principles: no preference model. Rewards are in [0, 1]."""

    kind: Literal["constitution"] = "constitution"
    model: str = Field("feedback", description="Which of the recipe's models judges.")
    reading: Reading = Field(
        "rating",
        description='"rating": expected value of 1 to 10, scaled; "rubric": P(yes) by principle, weighted, vetoes '
        'multiply; "pairwise": share of comparisons won against the prompt\'s other answers.',
    )
    principles_per_answer: int = Field(
        1, ge=1, description="Drawn for each answer (pairwise: each pair), all different; the mean counts."
    )
    principles: PrincipleChoice = Field(
        PrincipleChoice(replacement=False), description="How they are drawn; contextual choice is for revision."
    )
    principle_ids: tuple[str, ...] = Field((), description="Draw from these principles only; empty: from all.")
    delimiters: Literal["nonce", "plain"] = Field(
        "nonce", description='"nonce": what is judged cannot leave its block; "plain": what the micro world reads.'
    )
    max_unread: float = Field(
        0.2, ge=0.0, le=1.0, description="A step with a larger share of answers without a verdict is not learned from."
    )
    engines: EnginesConfig = EnginesConfig()

    @model_validator(mode="after")
    def _draws_make_sense(self) -> ConstitutionReward:
        if self.principles.method == "contextual":
            raise ValueError('principles.method "contextual" is for revision; use random, weighted or round_robin')
        if self.principles.replacement and self.principles_per_answer > 1:
            raise ValueError(
                f"principles.replacement=true with principles_per_answer={self.principles_per_answer} "
                "would ask the same question twice; set principles.replacement=false"
            )
        if self.reading == "rubric" and self.principles.method == "weighted":
            raise ValueError(
                'reading="rubric" weighs the verdicts, and principles.method="weighted" would weigh the draws too; '
                "set principles.method to random"
            )
        return self


RewardConfig = Annotated[PreferenceModelReward | RefreshedReward | ConstitutionReward, Field(discriminator="kind")]
