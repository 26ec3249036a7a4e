"""Train the RL-CAI policy by PPO.  Prompt -> Rollout (a sample of them), model.

The paper's second phase (Bai et al. 2022, section 4): from the SL-CAI policy, score minus beta times KL. One step is
one batch of fresh answers: sampled by vLLM, scored, turned into rewards and advantages, learned from in several
updates; then the engines get the new weights. Where the reward comes from is a choice (rewards/). All that goes from
step to step is in every snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cai_ray.algorithms import kl
from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.artifacts.allowance import Spent
from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.metrics_file import MetricsFile
from cai_ray.artifacts.parts import FileRecord, write_part
from cai_ray.artifacts.summaries.ppo import PpoSummary
from cai_ray.dropped import DROPPED
from cai_ray.engines.cluster import connected
from cai_ray.engines.learners.job import LearnersDiverged, LearnersLost
from cai_ray.engines.training.attempt import begin, end
from cai_ray.errors import LimitReached
from cai_ray.metrics.training_keys import KL
from cai_ray.progress.trackers import Trackers
from cai_ray.row_ids import ROLLOUT_IDS
from cai_ray.rows import ROLLOUT
from cai_ray.stages.context import Context
from cai_ray.stages.held_out import held_out_texts
from cai_ray.stages.ppo import health, summary
from cai_ray.stages.ppo.card import model_card
from cai_ray.stages.ppo.config import STAGE as STAGE
from cai_ray.stages.ppo.config import Config as Config
from cai_ray.stages.ppo.health import judge
from cai_ray.stages.ppo.kept_rows import kept_ids
from cai_ray.stages.ppo.lesson import distance_of, lesson_of
from cai_ray.stages.ppo.machines import build_machines
from cai_ray.stages.ppo.models import models_of
from cai_ray.stages.ppo.pretraining import drawn, input_files, input_identity, read_texts
from cai_ray.stages.ppo.progress import Phases, PpoProgress
from cai_ray.stages.ppo.refresh.config import RefreshSources
from cai_ray.stages.ppo.refresh.relearning import relearning_of
from cai_ray.stages.ppo.rewards.constitution import ConstitutionVerdicts
from cai_ray.stages.ppo.rewards.preference_model import PreferenceModelScore
from cai_ray.stages.ppo.run_state import (
    Carried,
    Reward,
    Training,
    diverged,
    is_due,
    keep_rows,
    limit_reached,
    newest,
    refresh_is_due,
    save,
)
from cai_ray.stages.ppo.snapshot import LoopState, sweep
from cai_ray.stages.ppo.turns import Turns, check_enough, choose
from cai_ray.stages.step import Step, shown


def one_step(training: Training, carried: Carried, phase: Phases) -> Carried:
    """Sample, score, judge, learn, hand on the weights. Raises LearnersLost and TrainingDiverged."""
    config, machines, turns = training.config, training.machines, training.turns
    step = carried.state.step + 1
    with phase("rollout"):
        episodes = carried.ready or machines.submit(turns.requests(step)).result()
        ahead = config.asynchronous and step < config.num_steps
        pending = machines.submit(turns.requests(step + 1)) if ahead else None
        machines.engines.sleep()
    with phase("score"):
        rewarded = training.reward.rewarded(training, carried.state, episodes)
        distance = distance_of(episodes, rewarded.scored, rewarded.unread)
    if step == 1:
        machines.prove_start(episodes, rewarded.scored)
    verdict, state, measured = judge(training, carried.state, episodes, rewarded, distance)
    if verdict.action == "go":
        with phase("update"):
            read = rewarded.read
            state, learned = learn(
                training, state, [episodes[k] for k in read], [rewarded.scored[k] for k in read], measured[KL]
            )
        measured |= learned
    with phase("wait"):
        ready = pending.result() if pending is not None else None
    with phase("sync"):
        machines.push(step)
    with phase("proof"):
        machines.prove(episodes)
    if num_lost := machines.newly_started():
        training.tell(f"in step {step} rollout engines were lost and started anew: {num_lost}", step)
    spent = keep_rows(training, step, episodes, rewarded, distance.kl)
    measured |= health.speed(phase, machines.newly_busy_s(), episodes)
    training.metrics.write(step=step, num_steps=config.num_steps, **health.plain(measured))
    training.trackers.curves(step, health.plain(measured))
    training.progress.show_measured(step, measured)
    return Carried(state, ready, spent)


def learn(
    training: Training, state: LoopState, episodes: Sequence[Episode], scored: Sequence[Scored], mean_kl: float
) -> tuple[LoopState, dict[str, float]]:
    """Rewards, advantages, several updates, and the next beta."""
    config, learners, step = training.config, training.machines.learners, state.step
    lesson = lesson_of(episodes, scored, config, state.kl, state.scores)
    seed = training.turns.seed
    texts = drawn(training.texts, config.num_texts, step, seed)
    try:
        stats = learners.update(
            episodes, scored, lesson.advantages, lesson.returns, step=step, seed=seed, pretraining=texts
        )
    except LearnersDiverged as error:
        raise diverged(training, step, str(error)) from error
    for reason in learners.refusals:
        training.tell(f"an update of step {step} is skipped: {reason}", step)
    beta = kl.next_state(state.kl, config.kl, mean_kl, len(episodes))
    after = state.model_copy(update={"kl": beta, "scores": lesson.score_state})
    return after, {**lesson.measured, **health.updates(stats)}


def train(training: Training) -> tuple[FileRecord, ...]:
    """All steps that are left, and the model saved. A lost learner costs what came after the last snapshot.

    Raises LimitReached after the step that reaches one, with a snapshot of it.
    """
    config, machines, since = training.config, training.machines, Spent()
    snapshot, carried = newest(training, set(training.opened.done_ids))
    bring_up = machines.start
    while True:
        try:
            bring_up(snapshot.name if snapshot else None, carried.state.step)
            phase = Phases()
            while carried.state.step < config.num_steps:
                if refresh_is_due(training, carried):
                    carried = training.reward.renewed(training, carried)
                    save(training, carried)
                    phase = Phases()
                carried = one_step(training, carried, phase)
                phase = Phases()
                since = since.plus(carried.spent)
                reached = limit_reached(training, carried, since)
                if reached is not None or is_due(training, carried):
                    with phase("snapshot"):  # counted to the step that waits for it
                        save(training, carried)
                if reached is not None:
                    raise LimitReached(reached)
            card = model_card(config, training.models, len(training.turns.prompts))
            return tuple(machines.learners.export(training.opened.folder, card))
        except LearnersLost as lost:
            training.tell(f"a learner was lost: {lost}")
            snapshot, carried = newest(training)
            bring_up = machines.rewind


def reward_of(config: Config, sources: RefreshSources | None, context: Context) -> Reward:
    """The reward that the config names. Raises ConfigError for what would stop a refresh."""
    if config.constitution is not None:
        return ConstitutionVerdicts(config.constitution)
    return PreferenceModelScore(relearning_of(config.refresh, sources, context))


def run(config: Config, context: Context, source_stage: str, sources: RefreshSources | None = None) -> Artifact:
    """Train on the prompts of `source_stage`, for the reward that the config names.

    `sources`: what other sections say of a refreshed preference model, where it is one.
    """
    source = context.artifact(source_stage)
    opened = open_stage(context.spec(STAGE, config, ROLLOUT_IDS, source))
    if isinstance(opened, Artifact):
        return opened
    folder = opened.folder
    models = models_of(config, context)
    reward = reward_of(config, sources, context)
    chosen = choose(source, models, config)
    check_enough(chosen, source, config)
    texts = read_texts(config.pretraining, models.text_ids, held_out_texts(context)) if config.pretraining else []
    turns = Turns(chosen.prompts, config.prompts_per_step, config.samples_per_prompt, context.seed)
    ids = [row["row_id"] for row in chosen.dropped]
    if ids:
        dropped = pa.Table.from_pylist(chosen.dropped, DROPPED)
        write_part(folder, ROLLOUT.empty_table(), dropped, ids)
    sweep(folder)
    attempt = begin(folder)
    with connected(context.cluster), PpoProgress(folder, STAGE, config.num_steps) as progress:
        trackers = Trackers(config.workers.report_to, folder)
        machines = build_machines(config, context, models)
        metrics = MetricsFile(folder, attempt.number, attempt.started_at)
        training = Training(
            config, opened, models, turns, attempt, machines, metrics, progress, texts, reward, trackers
        )
        try:
            files = train(training)
        finally:
            machines.close()
            metrics.close()
            trackers.close()
    end(folder)
    kept = kept_ids(turns, range(1, config.num_steps + 1), config.samples_kept)
    return opened.commit(pa.array([*ids, *kept], pa.string()), files)


def step(config: Config, source_stage: str, sources: RefreshSources | None) -> Step:
    """Of a run; makes the model `rl_cai`."""
    judge = config.constitution
    feedback = (sources.feedback_model,) if sources else ()
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage, sources),
        asks=(judge.model,) if judge else (config.preference_model, *feedback),
        trains=config.model,
        makes="rl_cai",
        reads=(source_stage, *((sources.pairs_stage,) if sources else ())),
        needs_constitution=sources is not None or judge is not None,
        minds_time=True,
        identity=lambda: input_identity(config.pretraining),
        files=lambda: input_files(config.pretraining),
        summary=shown(PpoSummary, summary.summarise, summary.table),
    )
