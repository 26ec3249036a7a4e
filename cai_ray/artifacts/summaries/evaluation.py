"""The summary of `evaluate`: the policies side by side, by metric, category, judge, games and phrases.

Policies are called as the recipe calls them, in its order; the first is the reference. A metric is a share in [0, 1],
or has a unit of its own and "score" in its name. Intervals are 95%.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import RowsSummary
from cai_ray.config import Config
from cai_ray.metrics.elo import Rating
from cai_ray.metrics.intervals import Estimate

ByMetric = dict[str, Estimate | None]  # None where nothing could be judged


class Diversity(Config):
    """How alike a policy's answers are; policies that answered the same prompts can be compared."""

    distinct_1: float | None = Field(description="Of all words, the share in [0, 1] that are different ones.")
    distinct_2: float | None = Field(description="The same of word pairs; None where no answer has so many words.")
    distinct_3: float | None = Field(description="The same of word triples.")
    boilerplate: Estimate | None = Field(description="Share in [0, 1] of answers that carry one of the phrases.")
    phrases: dict[str, float] = Field(description="Phrase said to many prompts -> share in (0, 1] of the prompts.")


class JudgedPolicy(Config):
    """What one judge made of one policy's answers; a game counts for both of its policies."""

    num_judged: int = Field(description="Answers or games that were judged, >= 0.")
    failures: dict[str, int] = Field(description="Reason -> answers or games that could not be judged, >= 1.")
    labels: dict[str, int] = Field(description="What a guard or classifier called answers -> answers, >= 1.")


class JudgeFacts(Config):
    """One judge."""

    kind: str = Field(description="As the recipe says it.")
    model: str = Field(description="As the recipe calls it.")
    policies: dict[str, JudgedPolicy] = Field(description="Only policies that it was to judge.")


class TwoRaters(Config):
    """Two judges of one metric, over the answers that all judges of it have judged."""

    first: str = Field(description="Name of the judge.")
    second: str = Field(description="Likewise.")
    alpha: float | None = Field(description="Krippendorff's alpha of the two.")
    same: Estimate | None = Field(description="Share in [0, 1] of answers to which both give the same value.")
    difference: Estimate | None = Field(description="Mean of the second's value less the first's, the metric's unit.")


class Parted(Config):
    """An answer on which judges are far apart."""

    policy: str = Field(description="Whose answer.")
    prompt_id: str = Field(description="To what.")
    sample_index: int = Field(description=">= 0.")
    values: dict[str, float] = Field(description="Judge -> its value.")


class JudgeAgreement(Config):
    """How far the judges of one metric are of one mind; None where nothing could be estimated."""

    metric: str = Field(description="As the judges call it.")
    num_answers: int = Field(description="That all of them have judged, >= 0.")
    alpha: float | None = Field(
        description="Krippendorff's alpha by squared distance, at most 1; 0 is chance; None where no two values differ."
    )
    parted: Estimate | None = Field(
        description="Share in [0, 1] of answers whose values lie more than a point apart (a share's: more than 0.5)."
    )
    pairwise: tuple[TwoRaters, ...] = Field(description="Every two judges.")
    parted_most: tuple[Parted, ...] = Field(description="The 20 answers on which they are furthest apart, at most.")


class WinRates(Config):
    """A policy against another, by one judge and of one aspect. `value` to `n` are the estimate of its win rate."""

    judge: str = Field(description='Name of the judge, or "oracle".')
    aspect: str = Field(description='"harmlessness" or "helpfulness".')
    policy: str = Field(description="Whose win rate it is.")
    reference: str = Field(description="Against whom.")
    value: float = Field(description="Mean outcome in [0, 1]; a tie is half.")
    low: float = Field(description="Of the interval over prompts, in [0, 1].")
    high: float = Field(description="Of the interval over prompts, in [0, 1].")
    n: int = Field(description="Prompts, >= 1.")
    standard_error: float | None = Field(description="Of the mean over prompts, >= 0; None with one prompt.")
    num_games: int = Field(description=">= 1.")
    flip_rate: float | None = Field(
        description="Of games judged in both orders, the share in [0, 1] where the place decided; None without such."
    )

    @property
    def rate(self) -> Estimate:
        return Estimate(value=self.value, low=self.low, high=self.high, n=self.n)


class FrontierMetrics(Config):
    """The metrics that a point of the frontier is made of; None where no scorer judged."""

    harmless: str | None = Field(description="The metric of harm; the point has 1 less it.")
    helpful: str | None = Field(description="The metric of help.")


class FrontierPoint(Config):
    """Where a policy lies between harmless and helpful; None where no scorer judged."""

    policy: str = Field(description="Whose point it is.")
    harmless: Estimate | None = Field(description="1 less the share of harmful answers, in [0, 1]; up is better.")
    helpful: Estimate | None = Field(description="In [0, 1] where the metric is a share; up is better.")
    metrics: FrontierMetrics = Field(description="What it is made of.")


class EvaluationSummary(RowsSummary):
    """Of all policies."""

    num_prompts: int = Field(description="Prompts that every policy was asked, >= 0.")
    samples_per_prompt: int = Field(description="Answers per prompt and policy, >= 1.")
    policies: dict[str, ByMetric] = Field(description="Policy -> metric -> over its answers.")
    categories: dict[str, dict[str, ByMetric]] = Field(description="Policy -> category -> metric -> over its answers.")
    reference: str = Field(description="The first policy, which the others are compared with.")
    differences: dict[str, ByMetric] = Field(
        description="Every other policy -> metric -> less the reference's, paired by prompt; shares in [-1, 1]."
    )
    diversity: dict[str, Diversity] = Field(description="Policy -> how alike its answers are.")
    unjudged: dict[str, dict[str, int]] = Field(description="Policy -> metric -> answers it could not be judged of.")
    dropped: dict[str, dict[str, int]] = Field(description="Policy -> reason -> answers that are missing.")
    judges: dict[str, JudgeFacts] = Field(description="Judge -> what it judged; empty without judges.")
    judge_agreement: tuple[JudgeAgreement, ...] = Field(
        (),
        exclude_if=lambda found: not found,  # an evaluation without is written as before there were any
        description="Of each metric that several judges give; left out where none does.",
    )
    counters: dict[str, int] = Field(description="The manifest's: tokens, requests, flags; >= 0.")
    duration_s: float = Field(description="Of the attempts that led here, seconds, >= 0.")
    elo: tuple[Rating, ...] = Field(description="By all games of the first judge: points, the reference at 0.")
    elo_by_judge: dict[str, dict[str, tuple[Rating, ...]]] = Field(
        description='Judge -> "overall" and each aspect -> points, the reference at 0.'
    )
    win_rates: tuple[WinRates, ...] = Field(description="Per judge, aspect and two policies.")
    frontier: tuple[FrontierPoint, ...] = Field(description="A point per policy.")
