"""One run of the PPO stage: what stays the same from step to step, what goes on, and how it is kept and found again.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cai_ray.algorithms import kl
from cai_ray.algorithms.episodes import Episode
from cai_ray.artifacts.allowance import Spent
from cai_ray.artifacts.artifact import OpenStage
from cai_ray.artifacts.counters import EPISODES, JUDGE_TOKENS, MICRODOLLARS, OUTPUT_TOKENS, PROMPT_TOKENS
from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.parts import write_part
from cai_ray.dropped import DROPPED
from cai_ray.engines.training.attempt import Attempt, check_owner
from cai_ray.engines.training.job import TrainingDiverged
from cai_ray.progress.trackers import Trackers
from cai_ray.row_ids import ROLLOUT_IDS
from cai_ray.stages.ppo import snapshot
from cai_ray.stages.ppo.config import STAGE, Config
from cai_ray.stages.ppo.kept_rows import kept_ids, rollout_rows, shown_rows
from cai_ray.stages.ppo.machines import Machines
from cai_ray.stages.ppo.models import Models
from cai_ray.stages.ppo.progress import PpoProgress
from cai_ray.stages.ppo.rewards.scored import Rewarded
from cai_ray.stages.ppo.snapshot import LoopState, Snapshot
from cai_ray.stages.ppo.turns import Turns

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Carried:
    """From one step to the next: what the loop knows, and the next answers where they are sampled ahead."""

    state: LoopState
    ready: list[Episode] | None = None
    spent: Spent = field(default_factory=Spent)  # by the step's requests, to a judge too


class Reward(Protocol):
    """Where the reward comes from. The loop knows no more of it (rewards/)."""

    def rewarded(self, training: Training, state: LoopState, episodes: Sequence[Episode]) -> Rewarded:
        """The answers of the step after `state`, with all that models say of them. Raises LearnersLost."""

    def num_due(self, step: int, num_steps: int) -> int:
        """Refreshes of what gives the reward that have to be done when `step` steps of `num_steps` are."""

    def renewed(self, training: Training, carried: Carried) -> Carried:
        """The same moment after one refresh. The newest snapshot is of this moment.

        Nothing counts until the next snapshot does. Raises LearnersLost, TrainingDiverged.
        """


@dataclass(frozen=True)
class Training:
    """All that stays the same from step to step."""

    config: Config
    opened: OpenStage
    models: Models
    turns: Turns
    attempt: Attempt
    machines: Machines
    metrics: MetricsFile
    progress: PpoProgress
    texts: list[tuple[int, ...]]  # not to be forgotten, as tokens; may be empty
    reward: Reward
    trackers: Trackers

    def tell(self, event: str, step: int | None = None) -> None:
        """Into metrics.jsonl and the log: something that is not as it should be."""
        logger.warning("%s: %s", STAGE, event)
        self.metrics.event(event, **({} if step is None else {"step": step}))


def diverged(training: Training, step: int, reason: str) -> TrainingDiverged:
    folder = training.opened.folder
    known = snapshot.records(folder, training.opened.plan.fingerprint)
    good = f"{folder.shown}/{snapshot.FOLDER}/{known[0].name}" if known else "none yet"
    return TrainingDiverged(f"{STAGE}: step {step}: {reason}. The last good snapshot: {good}")


def refresh_is_due(training: Training, carried: Carried) -> bool:
    """Whether what gives the reward learns before the next step."""
    state = carried.state
    return training.reward.num_due(state.step, training.config.num_steps) > state.num_refreshes


def is_due(training: Training, carried: Carried) -> bool:
    """Whether a snapshot follows the last step: now and then, at the end, and before a refresh, which begins there."""
    step, config = carried.state.step, training.config
    regular = step % config.workers.steps_per_checkpoint == 0 or step == config.num_steps
    return regular or refresh_is_due(training, carried)


def keep_rows(
    training: Training, step: int, episodes: Sequence[Episode], rewarded: Rewarded, distances: Sequence[float]
) -> Spent:
    """Some of the answers, drawn, as a part of their own; and for the trackers, as often as there is a snapshot.

    What the step's requests took.
    """
    scored = rewarded.scored
    kept = training.turns.kept(step, training.config.samples_kept)
    rows = rollout_rows(
        training.turns, step, [episodes[k] for k in kept], [scored[k] for k in kept], [distances[k] for k in kept]
    )
    counters = {
        EPISODES: len(episodes),
        PROMPT_TOKENS: sum(len(e.prompt_ids) for e in episodes),
        OUTPUT_TOKENS: sum(len(e.response_ids) for e in episodes),
    }
    counters |= rewarded.counters
    write_part(training.opened.folder, rows, DROPPED.empty_table(), ROLLOUT_IDS(rows).to_pylist(), counters)
    if step % training.config.workers.steps_per_checkpoint == 0 or step == training.config.num_steps:
        training.trackers.table("rollouts", step, shown_rows(rows))
    tokens = counters[PROMPT_TOKENS] + counters[OUTPUT_TOKENS] + counters.get(JUDGE_TOKENS, 0)
    return Spent(tokens, counters.get(MICRODOLLARS, 0))


def limit_reached(training: Training, carried: Carried, since: Spent) -> str | None:
    """Why no further step may begin, after this attempt has spent so much; None: one may, or none is left."""
    allowance = training.opened.spec.allowance
    is_done = carried.state.step >= training.config.num_steps
    return None if allowance is None or is_done else allowance.reached(since)


def save(training: Training, carried: Carried) -> None:
    """One atomic snapshot. Raises LearnersLost."""
    folder, workers = training.opened.folder, training.config.workers
    name = snapshot.name_of(carried.state, training.opened.plan.attempts)
    files = training.machines.learners.save(name)
    check_owner(folder, training.attempt)
    training.metrics.flush()
    kept = Snapshot(
        name=name,
        fingerprint=training.opened.plan.fingerprint,
        state=carried.state,
        files=tuple(files),
    )
    snapshot.write(folder, kept, carried.ready, workers.keep_checkpoints)


def newest(training: Training, rows_are_there: set[str] | None = None) -> tuple[Snapshot | None, Carried]:
    """Where an earlier attempt, or a lost learner, left off."""
    folder, config = training.opened.folder, training.config

    def fits(step: int) -> bool:
        wanted = kept_ids(training.turns, range(1, step + 1), config.samples_kept)
        return rows_are_there is None or rows_are_there.issuperset(wanted)

    found, problems = snapshot.newest_whole(folder, training.opened.plan.fingerprint, fits)
    for problem in problems:
        training.tell(problem)
    if found is None:
        return None, Carried(LoopState(step=0, kl=kl.first_state(config.kl)))
    training.tell(f"resumed from the snapshot of step {found.state.step}", found.state.step)
    return found, Carried(found.state, snapshot.ready_episodes(folder, found))
