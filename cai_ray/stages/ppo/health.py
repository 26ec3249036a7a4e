"""How the policy writes and learns, in numbers, and whether it is still well: one line of metrics.jsonl per step.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.algorithms.guards import Verdict, judge_rollouts
from cai_ray.metrics import training_keys as keys
from cai_ray.metrics.diversity import Answered, boilerplate, distinct
from cai_ray.metrics.refusals import read
from cai_ray.quality.gates import boilerplate_score
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.lesson import Distance
from cai_ray.stages.ppo.progress import Phases
from cai_ray.stages.ppo.rewards.scored import Rewarded
from cai_ray.stages.ppo.run_state import Training, diverged
from cai_ray.stages.ppo.snapshot import LoopState

DISTINCT_N = 2
# Of an update's statistics these are extremes, and not means over its tokens.
_LEAST, _MOST = "_min", "_max"


def writing(episodes: Sequence[Episode], texts: Sequence[str], prompts: Sequence[str]) -> dict[str, float]:
    """What can be said of the answers themselves.

    Args:
        texts: [num_episodes], the answers as a reader sees them, without reasoning.
        prompts: [num_episodes], what each could have copied from.

    Returns:
        length (mean tokens) and length_max; truncated, refusal_rate, evasive_rate (shares in [0, 1]); stock_phrases
        (mean share of an answer's words in known formulas or its own repetitions); boilerplate_rate (share of the
        answers that carry one of the phrases said to many prompts); distinct (distinct-2 over all answers; 0 where
        none has two words).
    """
    lengths = [len(episode.response_ids) for episode in episodes]
    readings = [read(text) for text in texts]
    said = boilerplate(
        [Answered(e.prompt_id, prompt, text) for e, prompt, text in zip(episodes, prompts, texts, strict=True)]
    )
    return {
        keys.LENGTH: fmean(lengths),
        keys.LENGTH_MAX: float(max(lengths)),
        keys.TRUNCATED: fmean(episode.truncated for episode in episodes),
        keys.REFUSAL_RATE: fmean(reading.refusal for reading in readings),
        keys.EVASIVE_RATE: fmean(reading.evasive for reading in readings),
        "stock_phrases": fmean(boilerplate_score(text) for text in texts),
        keys.BOILERPLATE_RATE: fmean(said.carries),
        keys.DISTINCT: distinct(texts, DISTINCT_N) or 0.0,
    }


def sampled(
    episodes: Sequence[Episode], scored: Sequence[Scored], kl: Sequence[float], unread: frozenset[int] = frozenset()
) -> dict[str, float]:
    """What the models say of the answers, before anything is learned. `unread`: positions without a score.

    Returns:
        score and score_std (raw), kl (nats per answer), kl_per_token, entropy (nats per token, estimated from the
        sampled tokens), sampler_gap (mean |learner - sampler| log-probability, nats per token).
    """
    num_tokens = sum(len(episode.response_ids) for episode in episodes)
    scores = [one.score for k, one in enumerate(scored) if k not in unread]
    gaps = (
        abs(mine - theirs)
        for episode, one in zip(episodes, scored, strict=True)
        for mine, theirs in zip(one.logprobs, episode.logprobs, strict=True)
    )
    return {
        keys.SCORE: fmean(scores) if scores else math.nan,
        "score_std": pstdev(scores) if scores and all(map(math.isfinite, scores)) else math.nan,
        keys.KL: fmean(kl),
        "kl_per_token": sum(kl) / num_tokens,
        keys.ENTROPY: -sum(sum(one.logprobs) for one in scored) / num_tokens,
        keys.SAMPLER_GAP: sum(gaps) / num_tokens,
    }


def updates(stats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One number per statistic of a step's updates: means, least of `*_min`, largest of `*_max`, `skipped` counted.

    Updates that were skipped tell nothing but that.
    """
    num_skipped = sum(one.get("skipped", 0) for one in stats)
    found: dict[str, float] = {"updates": float(len(stats)), keys.UPDATES_SKIPPED: num_skipped}
    done = [one for one in stats if not one.get("skipped", 0)]
    for name in sorted({name for one in done for name in one} - {"skipped", "num_tokens"}):
        values = [one[name] for one in done if name in one]
        if name.endswith(_LEAST):
            found[name] = min(values)
        elif name.endswith(_MOST):
            found[name] = max(values)
        else:
            found[name] = fmean(values)
    return found


def speed(phases: Phases, busy_s: float, episodes: Sequence[Episode]) -> dict[str, float]:
    """Seconds per phase as `<phase>_s`, episodes and sampled tokens per second, and how idle the engines were.

    `busy_s`: in which the engines sampled, whatever the learners did meanwhile.
    """
    step_s = max(phases.elapsed_s, 1e-9)
    num_tokens = sum(len(episode.response_ids) for episode in episodes)
    return {
        **{keys.seconds_of(phase): round(duration_s, 4) for phase, duration_s in phases.seconds.items()},
        "step_s": round(step_s, 4),
        keys.EPISODES_PER_S: round(len(episodes) / step_s, 2),
        keys.TOKENS_PER_S: round(num_tokens / step_s, 1),
        keys.ENGINE_IDLE: round(min(max(1 - busy_s / step_s, 0.0), 1.0), 4),
    }


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON can hold it: what is no finite number becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def too_many_unread(config: Config, rewarded: Rewarded) -> str:
    """Why a step with so many answers without a verdict is not learned from; "" where it is."""
    num, total = len(rewarded.unread), len(rewarded.scored)
    most = config.constitution.max_unread if config.constitution else 1.0
    if not num or (num <= most * total and num < total):
        return ""
    return (
        f"{num} of {total} answers got no verdict that can be read, above ppo.reward.max_unread={most:g} "
        f"({rewarded.why}); look at the judge's replies, or raise the share"
    )


def judge(
    training: Training,
    before: LoopState,
    episodes: Sequence[Episode],
    rewarded: Rewarded,
    distance: Distance,
) -> tuple[Verdict, LoopState, dict[str, float]]:
    """Is the policy still well? A step that is not is skipped; after too many in a row the run stops."""
    step = before.step + 1
    texts = [training.models.answer(episode.text) for episode in episodes]
    prompts = [training.turns.prompt(episode.prompt_id).text for episode in episodes]
    measured = {
        **sampled(episodes, rewarded.scored, distance.kl, rewarded.unread),
        **rewarded.measured,
        **writing(episodes, texts, prompts),
        keys.KL_COEFFICIENT: before.kl.coefficient,
        "policy_lag": float(before.step - min(episode.policy_version for episode in episodes)),
    }
    verdict, guard = judge_rollouts(
        before.guard,
        training.config.guards,
        kl=measured[keys.KL],
        writing=(measured[keys.DISTINCT], measured[keys.ENTROPY], measured[keys.LENGTH]),
        logprobs_finite=distance.logprobs_finite,
        scores_finite=distance.scores_finite,
        unreadable=too_many_unread(training.config, rewarded),
    )
    if verdict.action != "go":
        training.tell(f"step {step} is not learned from: {verdict.reason}", step)
    if verdict.action == "stop":
        raise diverged(training, step, verdict.reason)
    return verdict, before.model_copy(update={"step": step, "guard": guard}), measured
