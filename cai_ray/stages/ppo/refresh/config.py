"""When and how the preference model goes on learning while the policy does: the optional refresh of PPO.

A preference model is calibrated on answers of the policy it was trained with. PPO moves away from there, to answers
that it has never compared. Bai et al. 2022a (arXiv 2204.05862, section 4.5) therefore gather comparisons of the newest
policy's answers and train preference models again ("iterated online" training); here the same happens within a run,
every few steps, with AI labels, and training goes on from the model that is there.

Tested in tests/stages/ppo/refresh/test_relearning.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from cai_ray.config import Config, OptimConfig, ScalingConfig
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.stages.context import Context


class RefreshConfig(Config):
    """`ppo.reward` of kind refresh. How pairs are labelled, the section `labels` says."""

    every: int = Field(ge=1, description="PPO steps from one refresh to the next; none follows the last step.")
    prompts: int = Field(256, ge=1, description="Prompts that the policy answers twice at each refresh: a pair each.")
    held_out: float = Field(
        0.2, ge=0.0, lt=1.0, description="Share of the fresh pairs (by prompt) that is measured on and not learned."
    )
    replay: float = Field(
        1.0, ge=0.0, description="Pairs of the preference model's own training mixed in, per fresh pair learned."
    )
    learning_rate: float = Field(5e-6, gt=0, description="Of the preference model, constant; all weights learn.")
    batch_size: int = Field(32, ge=1, description="Pairs per update, fresh and replayed together.")
    epochs: int = Field(1, ge=1, description="Passes over the pairs of one refresh.")

    @property
    def optim(self) -> OptimConfig:
        """As the learners are told."""
        return OptimConfig(learning_rate=self.learning_rate, batch_size=self.batch_size, epochs=self.epochs)

    def num_due(self, step: int, num_steps: int) -> int:
        """Refreshes that have to be done when `step` steps of `num_steps` are."""
        return min(step, num_steps - 1) // self.every


class RefreshState(Config):
    """What the loop carries on from refresh to refresh; part of the snapshot."""

    count: int = Field(0, ge=0, description="Refreshes done.")
    offset: float = Field(0.0, description="Taken off every raw score: scores keep the zero they had at first.")


@dataclass(frozen=True)
class RefreshSources:
    """What other sections of the recipe say about it; made by pipeline/steps.py, since stages do not know each other.

    Attributes:
        feedback_model, scaling, job, check: how the labels stage asks, and what it refuses before anything starts.
        pairs_stage: whose artifact is the preference model's own training pairs.
        is_soft: pairs are learned with their labels' probabilities, not with 1.
        centring: weight of `losses.centring_penalty`; None for none.
    """

    feedback_model: str
    scaling: ScalingConfig
    job: Callable[[Context], ConversationJob]
    check: Callable[[Context], None]
    pairs_stage: str
    is_soft: bool
    centring: float | None
