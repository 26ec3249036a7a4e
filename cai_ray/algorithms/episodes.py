"""What passes between rollout engines, learners and the PPO loop: requests, episodes and their scores.

An episode is one sampled response to one prompt. Everything is in token ids, so that sampler and learner can never
disagree about tokenisation, and nothing is padded. Plain data: picklable, no torch.

Tested in tests/stages/ppo/test_lesson.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeRequest:
    """One response wanted: prompt token ids of the policy's own template, and the seed that fixes the sample."""

    prompt_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Episode:
    """One sampled response.

    `response_ids` include the end token where it was sampled. `logprobs` are the sampler's, one per response token,
    in nats at the sampling temperature. `truncated`: ended by the token limit, not by the end token. `text` is the
    response without the end token. `policy_version` is that of the weights it was sampled with.
    """

    prompt_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool
    text: str
    policy_version: int


@dataclass(frozen=True)
class Scored:
    """What the learners say of one episode.

    `score` is the raw preference-model score of prompt and response, by the preference model's tokenizer and
    template. The tuples hold one number per response token: log-probabilities of the policy as it was when it
    scored, of the frozen reference, and values; `values` is empty where the advantage needs none.
    """

    score: float
    logprobs: tuple[float, ...]
    ref_logprobs: tuple[float, ...]
    values: tuple[float, ...]
