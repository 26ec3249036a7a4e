"""Is the policy still well? A step's answers are measured and judged before anything is learned from them."""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.algorithms.guards import Verdict, judge_rollouts
from cai_ray.stages.ppo import health as ppo_health
from cai_ray.stages.ppo import lesson as ppo_batch
from cai_ray.stages.ppo.run_state import Training, diverged
from cai_ray.stages.ppo.snapshot import LoopState


def judge(
    training: Training,
    before: LoopState,
    episodes: Sequence[Episode],
    scored: Sequence[Scored],
    distance: ppo_batch.Distance,
) -> tuple[Verdict, LoopState, dict[str, float]]:
    """Is the policy still well? A step that is not is skipped; after too many in a row the run stops."""
    step = before.step + 1
    texts = [training.models.answer(episode.text) for episode in episodes]
    prompts = [training.turns.prompt(episode.prompt_id).text for episode in episodes]
    measured = {
        **ppo_health.sampled(episodes, scored, distance.kl),
        **ppo_health.writing(episodes, texts, prompts),
        "kl_coefficient": before.kl.coefficient,
        "policy_lag": float(before.step - min(episode.policy_version for episode in episodes)),
    }
    verdict, guard = judge_rollouts(
        before.guard,
        training.config.guards,
        kl=measured["kl"],
        writing=(measured["distinct"], measured["entropy"], measured["length"]),
        logprobs_finite=distance.logprobs_finite,
        scores_finite=distance.scores_finite,
    )
    if verdict.action != "go":
        training.tell(f"step {step} is not learned from: {verdict.reason}", step)
    if verdict.action == "stop":
        raise diverged(training, step, verdict.reason)
    return verdict, before.model_copy(update={"step": step, "guard": guard}), measured
