"""Is this training still healthy? Pure verdicts on what was measured: go on, skip, or stop and say why.

Two places ask. Before every optimiser update: is the loss, gradient or distance beyond reason (`judge_update`)? After
every rollout phase: are log-probabilities finite, is the policy too far from the reference, has its writing collapsed
(`judge_rollouts`)? A bad verdict skips that update or that step, `max_skips` times in a row: noise passes, while a sick
policy is measured again on fresh rollouts and stays sick. Then training stops, and the last checkpoint is a good one
because no bad step was learned from.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import Field

from cai_ray.config import Config

Action = Literal["go", "skip", "stop"]
MAX_OUTLIERS = 0.01
MAX_UPDATE_KL = 1.0


class CollapseConfig(Config):
    """Signs that a policy has found one phrase that pleases and repeats it (Bai et al. 2022, section 4.3).

    Each is the mean of the last `window` steps over the mean of the first `window` steps of the run.
    """

    window: int = Field(8, ge=1, description="Steps.")
    min_distinct: float = Field(0.5, ge=0.0, le=1.0, description="Distinct-n below this share of the start is a sign.")
    min_entropy: float = Field(0.2, ge=0.0, le=1.0, description="Entropy below this share of the start is a sign.")
    max_length_factor: float = Field(
        3.0, gt=1.0, description="Answers longer than this many times the start, or shorter by as much, are a sign."
    )
    num_signs: int = Field(2, ge=1, le=3, description="So many signs at once are a collapse; one may be learning.")


class GuardConfig(Config):
    """Limits of healthy training."""

    max_skips: int = Field(3, ge=0, description="Bad updates (or steps) in a row that are skipped; the next one stops.")
    max_grad_norm: float | None = Field(None, gt=0.0, description="Before clipping; null: any finite gradient is fine.")
    max_ratio: float | None = Field(
        100.0,
        gt=1.0,
        description="Tokens whose new/old probability (or its inverse) is larger are left out; null: none are.",
    )
    max_outliers: float = Field(
        MAX_OUTLIERS,
        ge=0.0,
        le=1.0,
        exclude_if=lambda share: share == MAX_OUTLIERS,  # runs from before there was one keep their fingerprint
        description="Share of an update's tokens that max_ratio may leave out.",
    )
    max_update_kl: float | None = Field(
        MAX_UPDATE_KL,
        gt=0.0,
        exclude_if=lambda kl: kl == MAX_UPDATE_KL,
        description="Mean nats per token between a step's first policy and this update's; null: any.",
    )
    max_kl: float | None = Field(None, gt=0.0, description="Mean nats per answer from the reference; null: any.")
    collapse: CollapseConfig | None = CollapseConfig()


class Writing(Config):
    """How the policy writes in one step."""

    distinct: float = Field(ge=0.0, le=1.0, description="Distinct n-grams over all n-grams.")
    entropy: float = Field(ge=0.0, description="Mean nats per token.")
    length: float = Field(ge=0.0, description="Mean tokens per answer.")


class GuardState(Config):
    """What guards remember; part of the snapshot."""

    skipped_updates: int = Field(0, ge=0, description="Bad updates in a row.")
    skipped_steps: int = Field(0, ge=0, description="Bad steps in a row.")
    num_starts: int = Field(0, ge=0, description="Steps that `start` is the mean of.")
    start: Writing | None = Field(None, description="Mean of the first steps: what this run calls normal.")
    recent: tuple[Writing, ...] = Field((), description="The last steps, oldest first, at most the window.")


class Verdict(NamedTuple):
    """What to do, and why: `reason` is empty with "go"."""

    action: Action
    reason: str


def judge_update(
    state: GuardState, config: GuardConfig, *, loss: float, grad_norm: float, outliers: float = 0.0, kl: float = 0.0
) -> tuple[Verdict, GuardState]:
    """Before an optimiser update. All numbers are of the whole minibatch, over workers, so that all decide alike.

    Args:
        loss: of policy or value model.
        grad_norm: L2, before clipping.
        outliers: share of the tokens that `max_ratio` left out, in [0, 1]; 0 for a value model.
        kl: between the policy at the start of the step and now, mean nats per token of the others; 0 for a value model.
    """
    bad = _not_finite(loss=loss, grad_norm=grad_norm, kl=kl)
    if not bad and config.max_grad_norm is not None and grad_norm > config.max_grad_norm:
        bad = f"grad_norm={grad_norm:.4g} is above max_grad_norm={config.max_grad_norm:g}; lower the learning rate"
    if not bad and outliers > config.max_outliers:
        bad = (
            f"the probability of {outliers:.2%} of the tokens changed more than max_ratio={config.max_ratio:g}-fold in "
            f"one step, above max_outliers={config.max_outliers:g}; lower the learning rate or the number of epochs"
        )
    if not bad and config.max_update_kl is not None and kl > config.max_update_kl:
        bad = (
            f"the policy moved {kl:.4g} nats per token in one step, above max_update_kl={config.max_update_kl:g}; "
            "lower the learning rate or the number of epochs"
        )
    verdict, skipped = _verdict(bad, state.skipped_updates, config.max_skips, "updates")
    return verdict, state.model_copy(update={"skipped_updates": skipped})


def judge_rollouts(
    state: GuardState,
    config: GuardConfig,
    *,
    kl: float,
    writing: tuple[float, float, float],
    logprobs_finite: bool = True,
    scores_finite: bool = True,
    unreadable: str = "",
) -> tuple[Verdict, GuardState]:
    """After a rollout phase, before anything is learned from it.

    Args:
        kl: mean nats per answer from the reference.
        writing: (distinct-n in [0, 1], mean entropy in nats per token, mean tokens per answer).
        logprobs_finite: every log-probability of policy, reference and sampler is a number.
        scores_finite: so is every score and value.
        unreadable: why too many answers have no score at all; "" where they do not.
    """
    distinct, entropy, length = writing
    bad = _not_finite(kl=kl, distinct=distinct, entropy=entropy, length=length)
    if not logprobs_finite:
        bad = (
            "a token's log-probability is not finite; look at the weights of the last update and the sampling settings"
        )
    elif not scores_finite:
        bad = "a score or value is not finite; look at the preference model and the last value update"
    elif unreadable:
        bad = unreadable
    if not bad:
        state = _remembered(state, config.collapse, Writing(distinct=distinct, entropy=entropy, length=length))
        if config.max_kl is not None and kl > config.max_kl:
            bad = (
                f"KL from the reference is {kl:.4g} nats per answer, above max_kl={config.max_kl:g}; "
                "raise the KL coefficient, lower the learning rate, or raise the cap"
            )
        elif config.collapse is not None:
            bad = _collapse(state, config.collapse)
    verdict, skipped = _verdict(bad, state.skipped_steps, config.max_skips, "steps")
    return verdict, state.model_copy(update={"skipped_steps": skipped})


def _verdict(bad: str, skipped: int, max_skips: int, unit: str) -> tuple[Verdict, int]:
    if not bad:
        return Verdict("go", ""), 0
    if skipped < max_skips:
        return Verdict("skip", bad), skipped + 1
    return Verdict("stop", f"{bad} ({skipped + 1} bad {unit} in a row, max_skips={max_skips})"), skipped + 1


def _not_finite(**measured: float) -> str:
    wrong = [f"{name}={value}" for name, value in measured.items() if not math.isfinite(value)]
    return f"{', '.join(wrong)} is not finite; lower the learning rate, or look at the batch" if wrong else ""


def _remembered(state: GuardState, config: CollapseConfig | None, now: Writing) -> GuardState:
    """The state with this step's writing: in the start while that is not full, and in the window."""
    if config is None:
        return state
    update: dict[str, object] = {"recent": (*state.recent, now)[-config.window :]}
    if state.num_starts < config.window:
        before, num = state.start or now, state.num_starts
        update["num_starts"] = num + 1
        update["start"] = Writing(
            distinct=(before.distinct * num + now.distinct) / (num + 1),
            entropy=(before.entropy * num + now.entropy) / (num + 1),
            length=(before.length * num + now.length) / (num + 1),
        )
    return state.model_copy(update=update)


def _collapse(state: GuardState, config: CollapseConfig) -> str:
    """What has collapsed, in words; empty if fewer than `num_signs` signs show."""
    if state.start is None or state.num_starts < config.window:
        return ""
    start, num = state.start, len(state.recent)
    distinct = sum(step.distinct for step in state.recent) / num
    entropy = sum(step.entropy for step in state.recent) / num
    length = sum(step.length for step in state.recent) / num
    factor = config.max_length_factor
    signs = []
    if distinct < config.min_distinct * start.distinct:
        signs.append(f"distinct-n fell from {start.distinct:.3g} to {distinct:.3g}")
    if entropy < config.min_entropy * start.entropy:
        signs.append(f"entropy fell from {start.entropy:.3g} to {entropy:.3g} nats per token")
    if length > factor * start.length or length * factor < start.length:
        signs.append(f"length went from {start.length:.4g} to {length:.4g} tokens")
    if len(signs) < config.num_signs:
        return ""
    fix = "raise the KL coefficient, soften the preference labels, or stop earlier"
    return f"the policy's writing collapsed over {num} steps: {'; '.join(signs)}; {fix}"
