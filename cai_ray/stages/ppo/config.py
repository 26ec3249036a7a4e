"""The recipe's section `ppo`, and every mistake in it that shows without starting anything."""

from __future__ import annotations

from pydantic import Field, model_validator

from cai_ray.algorithms.advantages import AdvantageConfig
from cai_ray.algorithms.guards import GuardConfig
from cai_ray.algorithms.kl import KlConfig
from cai_ray.algorithms.policy_losses import PolicyLossConfig, ValueLossConfig
from cai_ray.algorithms.scores import ScoreConfig
from cai_ray.config import LoraConfig, OptimConfig, ProofConfig, SamplingConfig, StageConfig
from cai_ray.engines.learners.job import LearnersConfig
from cai_ray.engines.rollouts.engines import RolloutConfig
from cai_ray.stages.ppo.pretraining import STAGE as STAGE
from cai_ray.stages.ppo.pretraining import PretrainingConfig
from cai_ray.stages.ppo.refresh.config import RefreshConfig
from cai_ray.stages.ppo.rewards.config import ConstitutionReward, PreferenceModelReward, RewardConfig
from cai_ray.stages.prompt_sources import Config as PromptsConfig

# What would change the distribution that is learned, and its value where it does not.
UNCUT = (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0), ("stop", ()))


class Config(StageConfig):
    """The recipe's section `ppo`. A step is: answers to fresh prompts, scores, several updates, new weights."""

    model: str = Field("sl_cai", description="Which model to start from; a frozen copy of it is the reference.")
    preference_model: str = Field(
        "preference_model", description="Which model scores the answers, where `reward` is one that needs it."
    )
    reward: RewardConfig = Field(
        PreferenceModelReward(),
        exclude_if=lambda reward: reward == PreferenceModelReward(),  # as it was before there was a choice
        description="Where the reward comes from: `kind` preference_model, refresh or constitution.",
    )
    prompts: PromptsConfig | None = Field(
        None,
        exclude_if=lambda prompts: prompts is None,  # a run without them is the run that it was before there were any
        description="Prompts for PPO alone, of split train; null: those of the section prompts.",
    )
    num_steps: int = Field(100, ge=1, description="Times that fresh answers are sampled and learned from.")
    prompts_per_step: int = Field(128, ge=1, description="Drawn without replacement until all have had their turn.")
    samples_per_prompt: int = Field(1, ge=1, le=256, description="Answers per prompt and step.")
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Longer prompts are dropped; null: what the context leaves beside sampling.max_tokens."
    )
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="Temperature and max_tokens only: what cuts the distribution cannot be learned."
    )
    asynchronous: bool = Field(
        False, description="Sample the next step's answers while this step is learned: they are one step old then."
    )
    advantage: AdvantageConfig = AdvantageConfig()
    scores: ScoreConfig = ScoreConfig()
    kl: KlConfig = KlConfig()
    loss: PolicyLossConfig = PolicyLossConfig()
    value_loss: ValueLossConfig = ValueLossConfig()
    pretraining: PretrainingConfig | None = Field(
        None, description="Text not to be forgotten, weighted by loss.pretraining_coefficient; null: none."
    )
    guards: GuardConfig = GuardConfig()
    optim: OptimConfig = Field(
        OptimConfig(learning_rate=1e-6, epochs=2),
        description="batch_size counts the answers of one update, epochs the passes over a step's answers.",
    )
    value_learning_rate: float | None = Field(None, gt=0, description="Of the value model; null: the policy's.")
    lora: LoraConfig | None = Field(None, description="Train adapters only; the reference is the model without them.")
    samples_kept: int = Field(32, ge=1, description="Answers per step that are kept as rows.")
    workers: LearnersConfig = LearnersConfig()
    rollouts: RolloutConfig = RolloutConfig()
    proof: ProofConfig = Field(
        ProofConfig(), description="Engines and learners on answers of a step: before the first, and after every sync."
    )

    @property
    def refresh(self) -> RefreshConfig | None:
        """How the preference model goes on learning; None: it does not."""
        return self.reward if isinstance(self.reward, RefreshConfig) else None

    @property
    def constitution(self) -> ConstitutionReward | None:
        """How a judge's verdicts are the reward; None: they are not."""
        return self.reward if isinstance(self.reward, ConstitutionReward) else None

    @property
    def num_episodes(self) -> int:
        """Answers per step."""
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def num_minibatches(self) -> int:
        """Updates per pass over a step's answers."""
        return self.num_episodes // self.optim.batch_size

    @property
    def num_updates(self) -> int:
        """Optimiser updates of the whole run."""
        return self.num_steps * self.updates_per_step

    @property
    def updates_per_step(self) -> int:
        return int(self.optim.epochs) * self.num_minibatches

    @property
    def num_texts(self) -> int:
        """Other texts learned from per step."""
        return self.pretraining.texts_per_update * self.updates_per_step if self.pretraining else 0

    @property
    def value_optim(self) -> OptimConfig:
        rate = self.value_learning_rate or self.optim.learning_rate
        return self.optim.model_copy(update={"learning_rate": rate})

    @model_validator(mode="after")
    def _batches_divide(self) -> Config:
        batch, total = self.optim.batch_size, self.num_episodes
        step = f"prompts_per_step={self.prompts_per_step} x samples_per_prompt={self.samples_per_prompt}={total}"
        if total % batch:
            raise ValueError(
                f"{step} answers are no multiple of optim.batch_size={batch}; set optim.batch_size to "
                f"{_divisor_near(total, batch)}, or prompts_per_step to a number that it divides"
            )
        if self.workers.num_workers > batch:
            raise ValueError(
                f"workers.num_workers={self.workers.num_workers} learners share updates of optim.batch_size={batch} "
                f"answers ({step} per step): each needs one at least; use fewer learners or a larger batch"
            )
        if not self.optim.epochs.is_integer():
            raise ValueError(f"optim.epochs={self.optim.epochs:g} must be whole: passes over each step's answers")
        if self.optim.max_steps is not None:
            raise ValueError(f"optim.max_steps={self.optim.max_steps} means nothing here; set num_steps")
        return self

    @model_validator(mode="after")
    def _refreshes_have_steps_after_them(self) -> Config:
        if self.refresh is not None and self.refresh.every >= self.num_steps:
            raise ValueError(
                f"reward.every={self.refresh.every} and num_steps={self.num_steps}: no refresh would come before the "
                "last step; lower reward.every, raise num_steps, or set reward.kind to preference_model"
            )
        return self

    @model_validator(mode="after")
    def _comparisons_stay_within_a_prompt(self) -> Config:
        if self.constitution and self.constitution.reading == "pairwise" and self.advantage.kind == "gae":
            raise ValueError(
                'reward.reading="pairwise" says which of a prompt\'s answers is the better one, and advantage.kind='
                '"gae" takes rewards of different prompts on one scale; set advantage.kind to grpo or rloo (with '
                "samples_per_prompt of 2 or more), or reward.reading to rating or rubric"
            )
        return self

    @model_validator(mode="after")
    def _samples_can_be_learned(self) -> Config:
        sampling = self.sampling
        if sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 gives one answer per prompt, nothing to compare; set it to 1")
        cuts = [name for name, off in UNCUT if getattr(sampling, name) != off]
        if cuts:
            raise ValueError(
                f"sampling.{cuts[0]}={getattr(sampling, cuts[0])!r} changes the distribution that PPO "
                f"learns, so log-probabilities would not compare; leave {' and '.join(cuts)} out"
            )
        if self.advantage.kind != "gae" and self.samples_per_prompt < 2:
            raise ValueError(
                f'advantage.kind="{self.advantage.kind}" compares answers to the same prompt, and '
                f"samples_per_prompt={self.samples_per_prompt}; set it to 2 or more, or kind to gae"
            )
        coefficient = self.loss.pretraining_coefficient
        if (self.pretraining is None) != (coefficient == 0):
            raise ValueError(
                f"loss.pretraining_coefficient={coefficient:g} and pretraining={self.pretraining!r} go together: "
                "name the text and give it a weight above 0, or leave both out"
            )
        if self.asynchronous and self.rollouts.sleep:
            raise ValueError(
                "asynchronous=true samples and learns at the same time, and rollouts.sleep=true lets them take turns "
                "on the same GPUs; turn one of them off"
            )
        return self


def _divisor_near(total: int, wanted: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wanted), d))
