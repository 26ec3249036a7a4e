"""Fresh comparisons for a refresh: the policy as it is now answers prompts twice, the feedback model compares.

Both are artifacts inside the stage's folder, refresh/<number>/pairs and refresh/<number>/labels, with the rows that
the stages sample_pairs and label_comparisons write. So a run that is killed meanwhile goes on with what is there, and
every pair that gets no label is in dropped/ with its reason.

Tested in tests/stages/ppo/refresh/test_relearning.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from cai_ray.algorithms.episodes import Episode
from cai_ray.artifacts.artifact import Artifact, StageSpec, find
from cai_ray.artifacts.counters import EPISODES, OUTPUT_TOKENS, flag_counter
from cai_ray.artifacts.derived import Outcome, counted, derive, outcome
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.fingerprint import settings
from cai_ray.progress.board import open_board
from cai_ray.row_ids import PAIR_IDS, pair_id_of
from cai_ray.rows import PAIR
from cai_ray.seeding import rng_for, seed_for
from cai_ray.stages.context import Context
from cai_ray.stages.ppo.config import STAGE
from cai_ray.stages.ppo.refresh.config import RefreshConfig, RefreshSources
from cai_ray.stages.ppo.run_state import Training
from cai_ray.stages.ppo.snapshot import records
from cai_ray.stages.ppo.turns import Turns
from cai_ray.stages.sampled_responses import check_comparable

FOLDER = "refresh"
NAME = f"{STAGE} {FOLDER}"  # of these artifacts, and of the line that shows progress
SAMPLES = 2


@dataclass(frozen=True)
class FreshPairs:
    """What one refresh has to compare, and where it leaves it. `number` counts refreshes from 1."""

    training: Training
    config: RefreshConfig
    number: int

    @cached_property
    def turns(self) -> Turns:
        """The prompts' turns at refreshes: all have theirs before any has another, in orders of their own."""
        turns = self.training.turns
        return Turns(turns.prompts, self.config.prompts, SAMPLES, seed_for(turns.seed, STAGE, FOLDER))

    @property
    def spec(self) -> StageSpec:
        stage = self.training.opened.spec
        folder = stage.folder / FOLDER / str(self.number)
        return StageSpec(folder, NAME, stage.fingerprint, settings(self.config), {}, PAIR_IDS)

    @property
    def ids(self) -> list[str]:
        """The pairs, known before anything is sampled. No pair of another refresh or of sample_pairs has one."""
        wanted = self.turns.wanted(self.number)
        return [
            self.pair_id(prompt_id, first, second)
            for (prompt_id, first), (_, second) in zip(wanted[::SAMPLES], wanted[1::SAMPLES], strict=True)
        ]

    def pair_id(self, prompt_id: str, first: int, second: int) -> str:
        return f"refresh-{self.number}/{pair_id_of(prompt_id, first, second)}"


def sampled_pairs(fresh: FreshPairs, step: int) -> Artifact:
    """The pairs, answered by the policy as it is after `step`; those of an earlier attempt, if it got that far."""
    return derive(fresh.spec.inner("pairs", PAIR_IDS), _answered(fresh, step), PAIR, fresh.ids)


def _answered(fresh: FreshPairs, step: int) -> Iterator[list[Outcome]]:
    training = fresh.training
    episodes = training.machines.submit(fresh.turns.requests(fresh.number)).result()
    counters = {
        EPISODES: len(episodes),
        OUTPUT_TOKENS: sum(len(episode.response_ids) for episode in episodes),
        flag_counter("truncated"): sum(episode.truncated for episode in episodes),
    }
    yield list(counted(paired(episodes, fresh, f"{training.config.model} after {step} steps of PPO"), counters))


def paired(episodes: Sequence[Episode], fresh: FreshPairs, policy: str) -> list[Outcome]:
    """The end of every pair; episodes come as they were asked for, the two of a prompt side by side."""
    found = []
    for first, second in zip(episodes[::SAMPLES], episodes[1::SAMPLES], strict=True):
        pair_id = fresh.pair_id(first.prompt_id, first.sample_index, second.sample_index)
        found.append(outcome(pair_id, partial(_pair, pair_id, first, second, fresh, policy)))
    return found


def _pair(pair_id: str, first: Episode, second: Episode, fresh: FreshPairs, policy: str) -> dict[str, Any]:
    """A row of PAIR. Which answer is A is drawn. Raises DropRow: EMPTY_RESPONSE, IDENTICAL."""
    texts = [fresh.training.models.answer(episode.text) for episode in (first, second)]
    check_comparable(texts, (first.sample_index, second.sample_index))
    a, b = texts if rng_for(fresh.turns.seed, STAGE, pair_id, "order").random() < 0.5 else texts[::-1]
    prompt, temperature = fresh.turns.prompt(first.prompt_id), fresh.training.config.sampling.temperature
    return {
        "pair_id": pair_id,
        "prompt_id": prompt.prompt_id,
        "messages": prompt.messages,
        "kind": prompt.kind,
        "category": prompt.category,
        "split": "train",
        "response_a": a,
        "response_b": b,
        "temperature_a": temperature,
        "temperature_b": temperature,
        "policy": policy,
    }


def labelled(fresh: FreshPairs, pairs: Artifact, sources: RefreshSources, context: Context) -> list[dict[str, Any]]:
    """The pairs that got a label, rows of PREFERENCE in the order of their ids."""
    if not pairs.manifest.rows_out:
        return []
    model, training = context.model(sources.feedback_model), fresh.training
    spec = fresh.spec.inner("labels", PAIR_IDS, pairs)
    labels = find(spec.folder)
    if labels is None:
        # Learners that must make room for the feedback model come back from the snapshot of this moment.
        back = records(training.opened.folder, training.opened.plan.fingerprint)[0]
        job = replace(sources.job(context), stage=NAME)
        asked = Conversations(spec, pairs, ("pair_id",), job, model, sources.scaling)
        room = training.machines.room_for(model, sources.scaling, back.name, back.state.step)
        with room, _line_of_its_own():
            labels = run_conversations(asked, context.cluster)
    return sorted(labels.rows(), key=lambda row: str(row["pair_id"]))


@contextmanager
def _line_of_its_own() -> Iterator[None]:
    """On the board of all stages, where there is one."""
    board = open_board()
    if board is not None:
        board.add_task(NAME, total=None)
    yield
    if board is not None:
        board.ended(NAME, "finished", "", None)


def lost(fresh: FreshPairs) -> dict[str, int]:
    """Why pairs of this refresh have no label, by reason; sampling and labelling together."""
    found = [artifact for name in ("pairs", "labels") if (artifact := find(fresh.spec.folder / name)) is not None]
    reasons: Counter[str] = Counter()
    for artifact in found:
        reasons.update(artifact.manifest.rows_dropped)
    return dict(sorted(reasons.items()))
