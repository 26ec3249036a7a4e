"""What a recipe says of labelling: the section `labels`.

Tested in tests/stages/preferences/test_label_comparisons.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cai_ray.config import Config as BaseConfig
from cai_ray.config import SamplingConfig, ScalingConfig, StageConfig
from cai_ray.constitution.draw import PrincipleChoice
from cai_ray.metrics.readings import Bounds
from cai_ray.stages.preferences.pair_sources import PairSetConfig, check_names

COT_CLAMP: Bounds = (0.4, 0.6)  # the paper's, section 4.1
VERDICT_SAMPLING = SamplingConfig(max_tokens=64)


class JudgeConfig(BaseConfig):
    """One of a panel."""

    model: str = Field(description="Which of the recipe's models compares.")
    weight: float = Field(1.0, gt=0, description="Of its label in the average, any scale.")


class Config(StageConfig):
    """The recipe's section `labels`."""

    model: str = Field("feedback", description="Which of the recipe's models compares.")
    models: tuple[JudgeConfig, ...] = Field(
        (),
        exclude_if=lambda judges: not judges,  # a run without a panel is the run that it was before there was one
        description="A panel in place of `model`: each judge labels every pair, and the labels are averaged by weight.",
    )
    pairs: tuple[PairSetConfig, ...] = Field(
        (),
        exclude_if=lambda sets: not sets,  # a run without them is the run that it was before there were any
        description="Pairs of your own to label, in place of the section pairs.",
    )
    principles_per_pair: int = Field(
        1, ge=1, description="Principles drawn per pair, all different; labels are their mean. The paper draws 1."
    )
    principles: PrincipleChoice = Field(
        PrincipleChoice(replacement=False), description="How they are drawn; contextual choice is for revision."
    )
    principle_ids: tuple[str, ...] = Field((), description="Draw from these principles only; empty: from all.")
    orders: Literal["both", "stored", "random"] = Field(
        "both", description='"both": each question with either answer first, averaged; "random": one, drawn.'
    )
    chain_of_thought: int = Field(
        0, ge=0, le=64, description="Samples of reasoning per question, averaged; 0: no reasoning. The paper: 1 and 5."
    )
    cot_sampling: SamplingConfig = SamplingConfig()
    truncated: Literal["drop", "keep"] = Field(
        "drop", description="Reasoning cut off at cot_sampling.max_tokens: drop the pair, or go by what there is."
    )
    clamp: Literal["auto"] | Bounds | None = Field(
        "auto", description='Bounds of a label, (low, high); "auto": (0.4, 0.6) with chain of thought, else none.'
    )
    reading: Literal["logprob", "sampled"] = Field(
        "logprob",
        exclude_if=lambda reading: reading == "logprob",
        description='"sampled": for models that give no log-probabilities, by the share of `verdicts` sampled ones.',
    )
    verdicts: int = Field(
        8, ge=1, le=256, exclude_if=lambda verdicts: verdicts == 8, description="Sampled verdicts per question."
    )
    verdict_sampling: SamplingConfig = Field(
        VERDICT_SAMPLING,
        exclude_if=lambda sampling: sampling == VERDICT_SAMPLING,
        description="Of each sampled verdict; with chain of thought cot_sampling is taken.",
    )
    labels: Literal["soft", "hard"] = Field("soft", description='"hard": prob_chosen is 1.')
    tie_margin: float = Field(0.0, ge=0.0, lt=0.5, description="Labels this close to 0.5 are ties, which are dropped.")
    num_few_shot: int = Field(0, ge=0, description="The constitution's example comparisons shown first, at most.")
    delimiters: Literal["nonce", "plain"] = Field(
        "nonce", description='"nonce": what is judged cannot leave its block; "plain": the paper\'s bare layout.'
    )
    scaling: ScalingConfig = ScalingConfig()

    @model_validator(mode="after")
    def _sensible(self) -> Config:
        check_names(self.pairs, "pairs")
        names = [judge.model for judge in self.models]
        if len(names) == 1 or len(set(names)) < len(names):
            raise ValueError(f"models={names} must name two judges or more, each once; for one judge set `model`")
        if self.reading == "sampled" and self.sampled_by.temperature == 0:
            raise ValueError(
                'reading="sampled" at temperature 0 asks for the same verdict again and again; raise the temperature '
                "of verdict_sampling (with chain of thought of cot_sampling)"
            )
        if self.principles.method == "contextual":
            raise ValueError('principles.method "contextual" is for revision; use random, weighted or round_robin')
        if self.principles.replacement and self.principles_per_pair > 1:
            raise ValueError(
                f"principles.replacement=true with principles_per_pair={self.principles_per_pair} "
                "would ask the same question twice; set principles.replacement=false"
            )
        if isinstance(self.clamp, tuple) and not 0 <= self.clamp[0] <= 0.5 <= self.clamp[1] <= 1:
            raise ValueError(f"clamp={list(self.clamp)} must be [low, high] with 0 <= low <= 0.5 <= high <= 1")
        return self

    @property
    def bounds(self) -> Bounds | None:
        """What labels are clamped to, `auto` resolved. Sampled verdicts are as unsure as they are few already."""
        if self.clamp == "auto":
            return COT_CLAMP if self.chain_of_thought and self.reading == "logprob" else None
        return self.clamp

    @property
    def sampled_by(self) -> SamplingConfig:
        """How verdicts are sampled."""
        return self.cot_sampling if self.chain_of_thought else self.verdict_sampling

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        """The panel; of one, where the recipe names no more."""
        return self.models or (JudgeConfig(model=self.model),)
