"""Keys of metrics.jsonl that one module writes and another reads: what a training step measures.

A stage may write more than these. Shares are in [0, 1].

Tested in tests/stages/report/test_training.py.
"""

from __future__ import annotations

from typing import Literal

# What places a line and measures nothing.
STEP = "step"  # >= 1, of `num_steps`
NUM_STEPS = "num_steps"
ATTEMPT = "attempt"  # >= 1, of the stage
ELAPSED_S = "elapsed_s"  # since that attempt began
EVENT = "event"  # text: a restart, a skipped update, a refresh
REFRESH = "refresh"  # >= 1, of an event about a refresh of the preference model
PLACES = frozenset({STEP, NUM_STEPS, ATTEMPT, ELAPSED_S})

# Supervised fine-tuning, preference model, DPO: the names are the Trainer's and TRL's.
LOSS = "loss"  # nats per token or pair
EVAL_LOSS = "eval_loss"
TOKEN_ACCURACY = "mean_token_accuracy"  # share of tokens that the model would have written
EVAL_TOKEN_ACCURACY = "eval_mean_token_accuracy"
PAIR_ACCURACY = "accuracy"  # share of pairs whose chosen answer scores higher
EVAL_PAIR_ACCURACY = "eval_accuracy"
DPO_ACCURACY = "rewards/accuracies"  # the same by DPO's implicit rewards
EVAL_DPO_ACCURACY = "eval_rewards/accuracies"
EXAMPLES_PER_S = "examples_per_s"
TOKENS_PER_S = "tokens_per_s"  # trained; of PPO: sampled

# PPO: a step's answers.
SCORE = "score"  # mean of the raw rewards: a preference model's in its own units, a judge's in [0, 1]
KL = "kl"  # from the start, nats per answer
KL_COEFFICIENT = "kl_coefficient"  # beta: score units per nat
ENTROPY = "entropy"  # nats per token
LENGTH = "length"  # mean, tokens
LENGTH_MAX = "length_max"
TRUNCATED = "truncated"  # share of answers that were cut off
REFUSAL_RATE = "refusal_rate"  # share of answers
EVASIVE_RATE = "evasive_rate"  # share of answers that refuse without a reason or an alternative
BOILERPLATE_RATE = "boilerplate_rate"  # share of answers that carry a phrase said to many prompts
DISTINCT = "distinct"  # distinct-2 over all answers, share
UNREAD = "unread"  # share of answers that the judge gave no readable verdict on
JUDGE_TOKENS = "judge_tokens"  # read and written
JUDGE_CACHED_TOKENS = "judge_cached_tokens"  # of these, served by the prefix cache
JUDGE_S = "judge_s"  # from asking to the last verdict
SAMPLER_GAP = "sampler_gap"  # mean |learner - sampler| log-probability, nats per token
# PPO: a step's updates.
POLICY_LOSS = "policy_loss"
VALUE_LOSS = "value_loss"
CLIP_FRACTION = "clip_fraction"  # share of tokens whose ratio was clipped
DUAL_CLIP_FRACTION = "dual_clip_fraction"  # of these, by the bound on losses
OUTLIERS = "outliers"  # share of tokens left out for their ratio
APPROX_KL = "approx_kl"  # of an update's start and its policy, mean nats per token, outliers apart
VALUE_CLIP_FRACTION = "value_clip_fraction"
EXPLAINED_VARIANCE = "explained_variance"  # of the returns by the value model, <= 1
UPDATES_SKIPPED = "updates_skipped"  # count
# PPO: a step's time.
EPISODES_PER_S = "episodes_per_s"  # answers
ENGINE_IDLE = "engine_idle"  # share of the step in which the engines sampled nothing
Phase = Literal["rollout", "score", "update", "wait", "sync", "proof", "snapshot"]  # they do not overlap
PHASES: tuple[Phase, ...] = ("rollout", "score", "update", "wait", "sync", "proof")  # of every step


def seconds_of(phase: Phase) -> str:
    """The key of a phase's seconds."""
    return f"{phase}_s"


# PPO: a refresh of the preference model.
REFRESH_PAIRS = "refresh_pairs"  # count, fresh
REFRESH_LABELLED = "refresh_labelled"  # of these


def refresh_fit(pairs: str, what: str, when: str) -> str:
    """The key of how well the model fits some pairs: "learned", "held_out" or "original".

    `what`: "accuracy", the share of pairs ranked right, or "loss", nats per pair; `when`: "before" or "after".
    """
    return f"refresh_{pairs}_{what}_{when}"
