"""One refresh of the preference model between two steps: fresh labels, some updates, and what they have changed.

Only what scores the answers changes. The value model goes on as it is, and so does the state of score normalisation:
comparisons say nothing of where zero is, so the scores' zero is moved to where the fresh answers score on average what
they scored before. (Should the new model be surer, scores spread more, and the running deviation follows.)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from cai_ray.algorithms.losses import centring_penalty, pairwise_loss
from cai_ray.artifacts.parts import write_part
from cai_ray.dropped import DROPPED
from cai_ray.errors import ConfigError
from cai_ray.metrics import training_keys as keys
from cai_ray.rows import ROLLOUT
from cai_ray.seeding import rng_for
from cai_ray.stages.context import Context
from cai_ray.stages.pair_files import PairFiles
from cai_ray.stages.ppo.config import STAGE
from cai_ray.stages.ppo.health import plain
from cai_ray.stages.ppo.models import Models
from cai_ray.stages.ppo.refresh.config import RefreshConfig, RefreshSources, RefreshState
from cai_ray.stages.ppo.refresh.fresh_pairs import FOLDER, FreshPairs, labelled, lost, sampled_pairs
from cai_ray.stages.ppo.run_state import Carried, Training, diverged

if TYPE_CHECKING:
    from cai_ray.engines.learners.learners import Learners

logger = logging.getLogger(__name__)
Ids = tuple[int, ...]


class TokenPair(NamedTuple):
    """A comparison as the preference model reads it: whole conversations."""

    chosen: Ids
    rejected: Ids
    target: float  # in [0.5, 1], what the loss aims at


class RewardLesson(NamedTuple):
    """The pairs of one refresh."""

    fresh: list[TokenPair]  # learned
    held_out: list[TokenPair]  # as fresh, and only measured on
    replayed: list[TokenPair]  # of the model's own training, learned again
    original: list[TokenPair]  # of its own evaluation, only measured on


class Fit(NamedTuple):
    """How well scores fit some pairs."""

    accuracy: float  # share in [0, 1] that favours what was chosen
    loss: float  # nats per pair, against the labels' probabilities


@dataclass(frozen=True)
class Relearning:
    """How it is done: training goes on from the model that is there, on AI labels of the newest answers."""

    config: RefreshConfig
    sources: RefreshSources
    context: Context

    def done(self, training: Training, carried: Carried) -> Carried:
        began, state, machines = time.perf_counter(), carried.state, training.machines
        fresh = FreshPairs(training, self.config, state.num_refreshes + 1)
        pairs = sampled_pairs(fresh, state.step)
        machines.engines.sleep()
        labels = labelled(fresh, pairs, self.sources, self.context)
        machines.engines.sleep()
        measured = relearn(
            machines.learners, reward_lesson_of(labels, self, training.models, fresh.number), self, fresh.number
        )
        machines.engines.wake()
        machines.newly_busy_s()  # what a refresh takes is no step's
        if not all(math.isfinite(measured.get(name, 0.0)) for name in ("refresh_loss", "refresh_offset")):
            reason = f"refresh {fresh.number} of the preference model is no number: {measured}"
            raise diverged(training, state.step, reason)
        counters = {"refreshes": 1, keys.REFRESH_PAIRS: len(fresh.ids), keys.REFRESH_LABELLED: len(labels)}
        counters |= {f"refresh_dropped.{reason}": num for reason, num in lost(fresh).items()}
        unit = f"{FOLDER}/{fresh.number}"
        write_part(training.opened.folder, ROLLOUT.empty_table(), DROPPED.empty_table(), [unit], counters)
        tell(training, state.step, fresh.number, {**counters, **measured, "refresh_s": time.perf_counter() - began})
        after = RefreshState(count=fresh.number, offset=state.offset + measured.get("refresh_offset", 0.0))
        return Carried(state.model_copy(update={"refresh": after}), carried.ready)


def relearning_of(config: RefreshConfig | None, sources: RefreshSources | None, context: Context) -> Relearning | None:
    """None without a refresh. Raises ConfigError for what would stop one, before anything is started."""
    if config is None:
        return None
    if sources is None:
        raise ConfigError(
            "ppo.reward of kind refresh needs the recipe's sections labels and preference_model; add them, or choose "
            "another kind"
        )
    context.artifact(sources.pairs_stage)
    sources.check(context)
    return Relearning(config, sources, context)


def reward_lesson_of(labels: Sequence[Mapping[str, Any]], how: Relearning, models: Models, number: int) -> RewardLesson:
    """What is learned and what is only measured on, from rows of PREFERENCE and from the model's own pairs."""
    config, context = how.config, how.context
    fresh: list[TokenPair] = []
    held_out: list[TokenPair] = []
    for row in labels:
        chosen, rejected = (models.scored_ids(row["messages"], row[side]) for side in ("chosen", "rejected"))
        pair = TokenPair(chosen, rejected, row["prob_chosen"] if how.sources.is_soft else 1.0)
        drawn = rng_for(context.seed, STAGE, row["prompt_id"], "held out").random()
        (held_out if drawn < config.held_out else fresh).append(pair)
    if not fresh:
        return RewardLesson(fresh, held_out, [], [])
    artifact = context.artifact(how.sources.pairs_stage)
    names = tuple(sorted(file.name for file in artifact.manifest.files))
    files = PairFiles(artifact.folder, names, context.seed, how.sources.is_soft, eval_pairs=len(labels))
    rng = rng_for(context.seed, STAGE, f"{FOLDER}/{number}", "own pairs")
    trained, evaluated = files.pairs("train"), files.pairs("eval")
    order = files.order(trained)
    whole, rest = divmod(round(config.replay * len(fresh)), len(order))
    replayed = _taken(files, trained, [*order * whole, *rng.sample(order, rest)])
    original = rng.sample(range(evaluated.num_rows), min(len(labels), evaluated.num_rows))
    return RewardLesson(fresh, held_out, replayed, _taken(files, evaluated, sorted(original)))


def _taken(files: PairFiles, pairs: pa.Table, positions: Sequence[int]) -> list[TokenPair]:
    taken = pairs.take(positions)
    columns = (taken[f"{side}_tokens"].to_pylist() for side in ("chosen", "rejected"))
    return [
        TokenPair(tuple(chosen), tuple(rejected), target)
        for chosen, rejected, target in zip(*columns, files.targets(taken), strict=True)
    ]


def relearn(learners: Learners, lesson: RewardLesson, how: Relearning, number: int) -> dict[str, float]:
    """Update the preference model; all figures of it, for metrics.jsonl.

    Returns:
        refresh_updates, refresh_updates_skipped, refresh_replayed (counts); refresh_loss (mean of the updates, nats per
        pair); refresh_offset: by how much fresh answers score more than before, on average; and for fresh pairs that
        were learned, fresh ones that were held out and the model's own evaluation pairs `Fit` before and after. Without
        a pair to learn from only the first.
    """
    if not lesson.fresh:
        return {"refresh_updates": 0.0}
    groups = {"learned": lesson.fresh, "held_out": lesson.held_out, "original": lesson.original}
    before = _scores(learners, groups)
    losses, stats = _updates(learners, [*lesson.fresh, *lesson.replayed], how, number)
    after = _scores(learners, groups)
    found = {
        "refresh_updates": float(len(stats)),
        "refresh_updates_skipped": sum(one["skipped"] for one in stats),
        "refresh_replayed": float(len(lesson.replayed)),
        "refresh_loss": fmean(losses),
        "refresh_offset": fmean(_of_fresh(after)) - fmean(_of_fresh(before)),
    }
    for name, pairs in groups.items():
        for when, scores in (("before", before), ("after", after)):
            fit = fit_of(scores[name], [pair.target for pair in pairs])._asdict() if pairs else {}
            found |= {keys.refresh_fit(name, what, when): value for what, value in fit.items()}
    return found


def _updates(
    learners: Learners, pairs: Sequence[TokenPair], how: Relearning, number: int
) -> tuple[list[float], list[dict[str, float]]]:
    """The loss before each update, and what the learners say of it."""
    config, losses, stats = how.config, [], []
    for epoch in range(config.epochs):
        order = list(range(len(pairs)))
        rng_for(how.context.seed, STAGE, f"{FOLDER}/{number}", f"epoch {epoch}").shuffle(order)
        for start in range(0, len(order), config.batch_size):
            batch = [pairs[k] for k in order[start : start + config.batch_size]]
            conversations = _conversations(batch)
            scores = learners.rewards(conversations)
            loss, slopes = slopes_of(scores, [pair.target for pair in batch], how.sources.centring)
            losses.append(loss)
            stats.append(learners.reward_step(conversations, slopes))
    return losses, stats


def slopes_of(scores: Sequence[float], targets: Sequence[float], centring: float | None) -> tuple[float, list[float]]:
    """The preference model's loss, and its derivative by each score.

    Args:
        scores: [2 * num_pairs], those of all chosen answers, then those of all rejected ones.
        targets: [num_pairs], in [0, 1].
        centring: weight of `centring_penalty`; None for none.

    Returns:
        Mean loss per pair, as train_preference_model's, and [2 * num_pairs].
    """
    import torch

    found = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    chosen, rejected = found.chunk(2)
    loss = pairwise_loss(chosen - rejected, torch.tensor(targets, dtype=torch.float64)).mean()
    if centring is not None:
        loss = loss + centring * centring_penalty(chosen, rejected).mean()
    (slopes,) = torch.autograd.grad(loss, found)
    return float(loss.detach()), slopes.tolist()


def fit_of(scores: Sequence[float], targets: Sequence[float]) -> Fit:
    """`scores` and `targets` as in `slopes_of`, of one pair or more. Two equal scores favour neither answer."""
    num = len(targets)
    right = fmean(chosen > rejected for chosen, rejected in zip(scores[:num], scores[num:], strict=True))
    return Fit(right, slopes_of(scores, targets, None)[0])


def _conversations(pairs: Sequence[TokenPair]) -> list[Ids]:
    return [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]


def _scores(learners: Learners, groups: Mapping[str, Sequence[TokenPair]]) -> dict[str, list[float]]:
    """Of each group's conversations, all in one call."""
    found = iter(learners.rewards([ids for pairs in groups.values() for ids in _conversations(pairs)]))
    return {name: list(islice(found, 2 * len(pairs))) for name, pairs in groups.items()}


def _of_fresh(scores: Mapping[str, list[float]]) -> list[float]:
    return [*scores["learned"], *scores["held_out"]]


def tell(training: Training, step: int, number: int, figures: Mapping[str, float]) -> None:
    """An event with its figures in metrics.jsonl, and the log."""
    dropped = {name.partition(".")[2]: num for name, num in figures.items() if name.startswith("refresh_dropped.")}
    lost = f" ({', '.join(f'{reason} {num}' for reason, num in dropped.items())})" if dropped else ""
    labelled = f"{figures[keys.REFRESH_LABELLED]} of {figures[keys.REFRESH_PAIRS]}"
    said = f"refresh {number} of the preference model: {labelled} fresh pairs got a label{lost}"
    for name, what in (("held_out", "fresh pairs held out"), ("original", "its own evaluation pairs")):
        if (before := figures.get(keys.refresh_fit(name, "accuracy", "before"))) is not None:
            after = figures[keys.refresh_fit(name, "accuracy", "after")]
            said += f"; accuracy on {what} {before:.1%} before, {after:.1%} after"
    logger.info("%s: %s", STAGE, said)
    training.metrics.event(said, step=step, refresh=number, **plain(figures))
