"""The judges that a recipe may name: models that score the answers of `evaluate`, one config per kind.

A judge's metrics get its name where another scorer has them already (evaluation_scorers.py). A judgement that fails
leaves its metrics without a value, and is counted by reason.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cai_ray.config import Config, SamplingConfig, ScalingConfig
from cai_ray.errors import ConfigError
from cai_ray.prompts.judges import (
    guard as judge_guard,
)
from cai_ray.prompts.judges import (
    pairwise as judge_pairwise,
)
from cai_ray.prompts.judges import (
    rating as judge,
)
from cai_ray.prompts.judges import (
    yes_no as judge_yes_no,
)
from cai_ray.prompts.judges.moderation import category_name
from cai_ray.seeding import stable_id

HARMFUL = "harmful"  # metric: 1 or 0, or a probability; lower is better
SCORE = "score"  # in the name of every metric that is no share
Prompts = Literal["all", "red_team", "helpful"]
_METRIC = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class JudgeConfig(Config, ABC):
    """What all judges have."""

    model: str = Field(description="Of the recipe's models, or of those that its stages train.")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="On the rows and in the table; null: the model's."
    )
    prompts: Prompts = Field("all", description="Answers to which kind of prompts are judged.")
    scaling: ScalingConfig = ScalingConfig()

    @property
    def label(self) -> str:
        return self.name or self.model

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Every metric that it may give; empty for a judge of pairs."""

    @property
    def is_asked(self) -> bool:
        """Whether the model is asked by chat, and so needs a prompt format."""
        return True

    def files(self) -> tuple[str, ...]:
        """Files whose content decides the judgements."""
        return ()


class RatingJudge(JudgeConfig):
    """Ratings from 1 to 5, as JSON."""

    kind: Literal["rating"] = "rating"
    aspects: dict[str, str] = Field(
        judge.ASPECTS, min_length=1, description="Name -> what 1 and 5 mean; metric <name>_score."
    )
    sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=256)

    @field_validator("aspects")
    @classmethod
    def _names(cls, aspects: dict[str, str]) -> dict[str, str]:
        for name in aspects:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == judge.REASON:
                raise ValueError(f"aspect {name!r} must be lower case letters, digits and _, and not {judge.REASON!r}")
        return aspects

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(f"{name}_{SCORE}" for name in self.aspects)


class PairwiseJudge(JudgeConfig):
    """Which of two policies' answers is better, asked in both orders; makes games, not scores."""

    kind: Literal["pairwise"] = "pairwise"
    reading: Literal["logprobs", "text"] = Field(
        "logprobs",
        description='"logprobs": of (A) and (B), one token; "text": [[A]], [[B]] or [[C]] after an explanation.',
    )
    question: str = Field(judge_pairwise.QUESTION, min_length=1)
    pairs: Literal["all", "reference"] = Field(
        "all", description='"reference": every policy against the first one only.'
    )
    delimiters: Literal["nonce", "plain"] = Field(
        "nonce", description='Of the reading "logprobs", as in `labels`; the reading "text" has a nonce always.'
    )
    sampling: SamplingConfig = Field(
        SamplingConfig(temperature=0.0, max_tokens=512), description='Of the reading "text".'
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ()


class TemplateJudge(JudgeConfig):
    """A judge that reads one text, made from a template."""

    template: str | None = Field(
        None, description="A text file with {generation} and {behavior} or {conversation}; null: our own words."
    )

    @property
    @abstractmethod
    def own_template(self) -> str:
        """The template where no file is named."""

    def files(self) -> tuple[str, ...]:
        return (self.template,) if self.template else ()

    def template_text(self) -> str:
        """Raises ConfigError for a file that is not there or leaves out what is judged."""
        text = self.own_template if self.template is None else read_text(self.template)
        try:
            judge_yes_no.check_template(text)
        except ValueError as error:
            raise ConfigError(f"{self.template}: {error}") from error
        return text


class YesNoJudge(TemplateJudge):
    """A classifier that generates Yes or No about one answer, as HarmBench's; metric `harmful`."""

    kind: Literal["yes_no"] = "yes_no"
    prompts: Prompts = "red_team"
    system: str | None = Field(judge_yes_no.SYSTEM, description="System message; null: none.")
    reading: Literal["token", "probability"] = Field(
        "token", description='"token": one greedy token; "probability": P(Yes) of the two, ShieldGemma\'s way.'
    )
    max_generation_tokens: int = Field(512, ge=1, description="The answer is cut to so many; the rest stays whole.")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL,)

    @property
    def own_template(self) -> str:
        return judge_yes_no.TEMPLATE


class GuardJudge(JudgeConfig):
    """A safety model with its own chat template, as Llama Guard: safe or unsafe, and categories; metric `harmful`."""

    kind: Literal["guard"] = "guard"
    prompts: Prompts = "red_team"
    max_tokens: int = Field(64, ge=2, description="For the verdict and a line of categories.")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL,)


class WildGuardJudge(TemplateJudge):
    """Three lines of yes and no, as WildGuard; metrics `harmful`, `refusal`, `request_harmful`."""

    kind: Literal["wildguard"] = "wildguard"
    max_tokens: int = Field(128, ge=8)

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL, "refusal", "request_harmful")

    @property
    def own_template(self) -> str:
        return judge_guard.WILDGUARD_TEMPLATE


class ClassifierJudge(JudgeConfig):
    """Any sequence classifier: the probability of labels, by their names."""

    kind: Literal["classifier"] = "classifier"
    prompts: Prompts = "red_team"
    labels: tuple[str, ...] = Field(
        min_length=1, description="Of the model's id2label, those whose probability counts."
    )
    input: Literal["answer", "pair", "chat"] = Field(
        "answer", description='"answer": its text alone; "pair": conversation and answer; "chat": by chat template.'
    )
    metric: str = Field(HARMFUL, pattern=_METRIC)
    threshold: float | None = Field(None, gt=0, lt=1, description="From this probability on 1, else 0; null: itself.")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def is_asked(self) -> bool:
        return False


class RewardJudge(JudgeConfig):
    """A preference or reward model: one number per answer, in its own unit."""

    kind: Literal["reward"] = "reward"
    layout: Literal["classifier", "value_head"] = Field(
        "classifier", description='"value_head": a backbone and a linear head as a state dict, as Starling\'s.'
    )
    input: Literal["chat", "pair"] = Field("chat", description='Of layout "classifier"; "pair": two texts.')
    backbone: str | None = Field(
        None, description="Of a value head: folder or hub id of the model it was made from; null: its own folder."
    )
    metric: str = Field(f"preference_{SCORE}", pattern=_METRIC, description=f'Holds "{SCORE}", as it is no share.')

    @model_validator(mode="after")
    def _sensible(self) -> RewardJudge:
        if SCORE not in self.metric:
            raise ValueError(f'metric={self.metric!r} is in a unit of its own, so its name must hold "{SCORE}"')
        if self.backbone is not None and self.layout != "value_head":
            raise ValueError('backbone is of layout="value_head"; set that, or leave backbone out')
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    @property
    def is_asked(self) -> bool:
        return False


class ModerationJudge(JudgeConfig):
    """An OpenAI-compatible /v1/moderations; metrics `harmful` (flagged) and `moderation_score`, its highest."""

    kind: Literal["moderation"] = "moderation"
    prompts: Prompts = "red_team"
    categories: tuple[str, ...] = Field((), description="Only these count; empty: the server's own verdict over all.")

    @field_validator("categories")
    @classmethod
    def _spelling(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(category_name(name) for name in names)

    @property
    def metrics(self) -> tuple[str, ...]:
        return (HARMFUL, f"moderation_{SCORE}")


class SimilarityJudge(JudgeConfig):
    """Cosine of an answer's embedding and a reference's, by a model that vLLM can embed with."""

    kind: Literal["similarity"] = "similarity"
    reference_policy: str | None = Field(None, description="A policy; its answers are the others' references.")
    references: str | None = Field(
        None, description='Or a file of JSON lines {"prompt": last message, "reference": text}.'
    )

    @model_validator(mode="after")
    def _one_source(self) -> SimilarityJudge:
        if (self.reference_policy is None) == (self.references is None):
            raise ValueError("similarity needs a reference: set reference_policy or references, and not both")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        return (f"similarity_{SCORE}",)

    @property
    def is_asked(self) -> bool:
        return False

    def files(self) -> tuple[str, ...]:
        return (self.references,) if self.references else ()


AnyJudge = Annotated[
    RatingJudge
    | PairwiseJudge
    | YesNoJudge
    | GuardJudge
    | WildGuardJudge
    | ClassifierJudge
    | RewardJudge
    | ModerationJudge
    | SimilarityJudge,
    Field(discriminator="kind"),
]


def asked_models(judges: Iterable[JudgeConfig]) -> tuple[str, ...]:
    """Names of the models that are asked by chat."""
    return tuple(dict.fromkeys(one.model for one in judges if one.is_asked))


def scoring_models(judges: Iterable[JudgeConfig]) -> tuple[str, ...]:
    """Names of the models that score texts, and need no prompt format."""
    return tuple(dict.fromkeys(one.model for one in judges if not one.is_asked))


def input_identity(judges: Iterable[JudgeConfig]) -> dict[str, Any]:
    """The content of the files that judges name (G4). Raises ConfigError for one that cannot be read."""
    return {path: stable_id(read_text(path)) for one in judges for path in one.files()}


def check_names(judges: Sequence[JudgeConfig], policies: Sequence[str]) -> None:
    """Raises ValueError for two judges of one name, and for a reference that no policy gives."""
    names = [one.label for one in judges]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"judges has {', '.join(repeated)} twice; give each its own `name`")
    for one in judges:
        if isinstance(one, SimilarityJudge) and one.reference_policy not in (None, *policies):
            raise ValueError(f"reference_policy={one.reference_policy!r} is not among policies ({', '.join(policies)})")


def read_text(path: str) -> str:
    """Raises ConfigError for a file that cannot be read."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r}, which evaluate.judges names, cannot be read: {error}") from error
