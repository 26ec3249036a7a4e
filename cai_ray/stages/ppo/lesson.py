"""From a step's scored answers to what is learned from them: KL-shaped rewards, advantages, returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cai_ray.algorithms.advantages import advantages_of, explained_variance, moments, whiten
from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.algorithms.kl import KlState, per_token_kl, sequence_kl, shaped_rewards
from cai_ray.algorithms.scores import ScoreState, observed, shaped_scores
from cai_ray.metrics.training_keys import EXPLAINED_VARIANCE
from cai_ray.stages.ppo.config import Config

if TYPE_CHECKING:
    from torch import Tensor

PerToken = list[tuple[float, ...]]  # [num_episodes][num_tokens of its answer]


class Distance(NamedTuple):
    """How far the policy is from where it was told to stay."""

    kl: list[float]  # [num_episodes], nats per answer from the reference (k3, which is the steadiest)
    logprobs_finite: bool
    scores_finite: bool


class Lesson(NamedTuple):
    """What the learners are given besides the answers themselves."""

    advantages: PerToken
    returns: PerToken  # empty tuples without a value model
    score_state: ScoreState
    measured: dict[str, float]


def distance_of(
    episodes: Sequence[Episode], scored: Sequence[Scored], unread: frozenset[int] = frozenset()
) -> Distance:
    """Before anything is learned: KL from the reference, and whether every number is one.

    `unread`: positions of answers without a score.
    """
    mask = _mask([len(episode.response_ids) for episode in episodes])
    kl = per_token_kl(_padded([s.logprobs for s in scored]), _padded([s.ref_logprobs for s in scored]), "k3")
    logprobs = [e.logprobs for e in episodes] + [s.logprobs for s in scored] + [s.ref_logprobs for s in scored]
    values = [s.values for s in scored] + [(s.score,) for k, s in enumerate(scored) if k not in unread]
    return Distance(sequence_kl(kl, mask).tolist(), _all_finite(logprobs), _all_finite(values))


def lesson_of(
    episodes: Sequence[Episode],
    scored: Sequence[Scored],
    config: Config,
    kl_state: KlState,
    score_state: ScoreState,
) -> Lesson:
    """Rewards and advantages over the whole step, so that it does not matter how many learners there are.

    Raises ValueError where a score is not finite; the guards have refused such a step before.
    """
    import torch

    lengths = [len(episode.response_ids) for episode in episodes]
    mask = _mask(lengths)
    scores = torch.tensor([s.score for s in scored], dtype=torch.float32)
    truncated = torch.tensor([episode.truncated for episode in episodes])
    score_state = observed(score_state, scores)
    shaped = shaped_scores(scores, truncated, score_state, config.scores)
    logprobs, ref_logprobs = _padded([s.logprobs for s in scored]), _padded([s.ref_logprobs for s in scored])
    penalty = per_token_kl(logprobs, ref_logprobs, config.kl.estimator)
    rewards = shaped_rewards(shaped, penalty, mask, kl_state.coefficient)
    has_values = config.advantage.kind == "gae"
    values = _padded([s.values for s in scored]) if has_values else None
    turn = {group: k for k, group in enumerate(dict.fromkeys(group_of(episode, config) for episode in episodes))}
    groups = torch.tensor([turn[group_of(episode, config)] for episode in episodes])
    advantages, returns = advantages_of(config.advantage, rewards, mask, values=values, groups=groups)
    measured = {
        "score_shaped": float(shaped.mean()),
        "reward": float(rewards.sum(dim=1).mean()),
        "advantage_std": float(advantages[mask].std(correction=0)),
    }
    if values is not None and returns is not None:
        measured["value"] = float(values[mask].mean())
        measured[EXPLAINED_VARIANCE] = explained_variance(moments(returns, mask), moments(returns - values, mask))
        if config.advantage.whiten:
            advantages = whiten(advantages, mask, moments(advantages, mask))
    given: PerToken = _unpadded(returns, lengths) if returns is not None else [() for _ in lengths]
    return Lesson(_unpadded(advantages, lengths), given, score_state, measured)


def group_of(episode: Episode, config: Config) -> tuple[str, int]:
    """Which answers it is compared with: those that were sampled for the same turn of its prompt."""
    return episode.prompt_id, episode.sample_index // config.samples_per_prompt


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """[num_episodes, longest], zero behind each row's end."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence([torch.tensor(row, dtype=torch.float32) for row in rows], batch_first=True)


def _mask(lengths: Sequence[int]) -> Tensor:
    import torch

    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _unpadded(values: Tensor, lengths: Sequence[int]) -> PerToken:
    return [tuple(row[:length]) for row, length in zip(values.tolist(), lengths, strict=True)]


def _all_finite(rows: Sequence[Sequence[float]]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row)
