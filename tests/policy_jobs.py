"""Small jobs for PPO's learners: the micro model, a random reward model that reads its tokens, made-up episodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.algorithms.guards import GuardConfig
from cai_ray.algorithms.policy_losses import PolicyLossConfig, ValueLossConfig
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, OptimConfig
from cai_ray.engines.learners.job import LearnersConfig, LearnersJob
from tests.tiny_models import save_llama

OPTIM = OptimConfig(learning_rate=1e-4, batch_size=8, epochs=2)


def save_reward_model(base: Path, folder: Path) -> Path:
    """A tiny classifier with the base model's tokenizer: random, so what it likes is arbitrary, but always the same."""
    from transformers import AutoTokenizer

    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 512, "initializer_range": 0.3}
    return save_llama(folder, AutoTokenizer.from_pretrained(base), classifier=True, **sizes)


def policy_job(folder: Path | Storage, policy: Path, reward: Path, **changes: Any) -> LearnersJob:
    """Updates of 8 answers, two epochs, one CPU worker."""
    workers = {"threads": 1, **changes.pop("workers", {})}
    fields: dict[str, Any] = {
        "stage": "tiny",
        "folder": folder if isinstance(folder, Storage) else Storage(str(folder)),
        "seed": 3,
        "policy": ModelConfig(path=str(policy)),
        "reward": ModelConfig(path=str(reward)),
        "value": ModelConfig(path=str(reward)),
        "optim": OPTIM,
        "value_optim": OPTIM,
        "total_updates": 100,
        "workers": LearnersConfig(**workers),
        "loss": PolicyLossConfig(),
        "value_loss": ValueLossConfig(),
        "guards": GuardConfig(),
    }
    return LearnersJob(**{**fields, **changes})


@dataclass(frozen=True)
class Step:
    """What a driver hands to the learners in one step."""

    episodes: list[Episode]
    reward_ids: list[list[int]]

    def taught(self, scored: Sequence[Scored]) -> tuple[list[list[float]], list[list[float]]]:
        """Advantages and returns, made up from the scores."""
        advantages = [[each.score + 0.1 * (n % 3) - 0.1 for n in range(len(each.logprobs))] for each in scored]
        returns = [[0.5 * each.score for _ in each.logprobs] for each in scored]
        return advantages, returns


def made_up_step(num_episodes: int = 16, max_answer: int = 24, vocabulary: int = 1000, seed: int = 0) -> Step:
    """Random tokens; the sampler's log-probabilities are those of a policy that knows nothing."""
    rng = random.Random(seed)
    episodes, reward_ids = [], []
    for n in range(num_episodes):
        prompt, answer = (
            tuple(rng.randrange(3, vocabulary) for _ in range(rng.randint(1, most))) for most in (20, max_answer)
        )
        episodes.append(
            Episode(
                prompt_id=f"prompt-{n}",
                sample_index=0,
                prompt_ids=prompt,
                response_ids=answer,
                logprobs=(-6.9,) * len(answer),
                truncated=False,
                text="",
                policy_version=0,
            )
        )
        reward_ids.append([*prompt, *answer, 2])
    return Step(episodes, reward_ids)
