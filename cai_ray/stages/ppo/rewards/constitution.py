"""Reward straight from a feedback model that reads the constitution: no preference model stands between.

Lee et al. 2023 (arXiv 2309.00267, section 2.2.2, "direct RLAIF") have the labeller rate each answer from 1 to 10 and
take the expected value; a rubric of yes/no questions and comparisons within a prompt's answers are read the same way.
The judge's engines stay up beside the rollouts'. While they read, the learners compute log-probabilities and, in
asynchronous mode, the rollout engines write the next answers.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

from cai_ray.algorithms.episodes import Episode
from cai_ray.artifacts import counters as counted
from cai_ray.metrics import training_keys as keys
from cai_ray.prompts.comparison import nonce_for
from cai_ray.rows import ROW_ID
from cai_ray.stages.ppo.pretraining import STAGE
from cai_ray.stages.ppo.rewards.config import ConstitutionReward
from cai_ray.stages.ppo.rewards.scored import Rewarded
from cai_ray.stages.ppo.run_state import Carried, Training
from cai_ray.stages.ppo.snapshot import LoopState


class Question(NamedTuple):
    """What the judge reads at once: one answer, or two of the same prompt. `positions`: whose episodes."""

    positions: tuple[int, ...]
    row: dict[str, Any]


@dataclass(frozen=True)
class ConstitutionVerdicts:
    """A `run_state.Reward`."""

    config: ConstitutionReward

    def rewarded(self, training: Training, state: LoopState, episodes: Sequence[Episode]) -> Rewarded:
        judges, learners = training.machines.judges, training.machines.learners
        assert judges is not None, "build_machines makes them for this reward"
        began = time.perf_counter()
        asked = questions(training, state.step + 1, episodes, self.config)
        prompts = [episodes[question.positions[0]].prompt_id for question in asked]
        judges.wake()
        pending = judges.submit([question.row for question in asked], prompts)
        if judges.sleeps:  # they have the learners' GPUs until they are done
            outcomes = pending.result()
            judges.sleep()
            scored = learners.score(episodes, None)
        else:
            scored = learners.score(episodes, None)
            outcomes = pending.result()
        rewards = rewards_of(asked, outcomes, len(episodes))
        unread = frozenset(k for k, reward in enumerate(rewards) if reward is None)
        counters = counters_of(outcomes)
        measured = {
            keys.UNREAD: len(unread) / len(episodes),
            keys.JUDGE_TOKENS: float(counters[counted.JUDGE_TOKENS]),
            keys.JUDGE_CACHED_TOKENS: float(counters[counted.JUDGE_CACHED_TOKENS]),
            keys.JUDGE_S: round(time.perf_counter() - began, 4),
        }
        found = [
            one if reward is None else replace(one, score=reward) for one, reward in zip(scored, rewards, strict=True)
        ]
        return Rewarded(found, unread, measured, counters, _why(outcomes))

    def num_due(self, step: int, num_steps: int) -> int:
        return 0

    def renewed(self, training: Training, carried: Carried) -> Carried:
        return carried


def questions(training: Training, step: int, episodes: Sequence[Episode], config: ConstitutionReward) -> list[Question]:
    """What is asked of a step's answers. Those to one prompt share a code, and so the prefix up to the answer.

    Two answers of the same words are not compared: in both orders the judge would contradict itself.
    """
    samples, seed = training.config.samples_per_prompt, training.turns.seed
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for k, episode in enumerate(episodes):
        groups[f"{episode.prompt_id}/{episode.sample_index // samples}"].append(k)
    texts = [training.models.answer(episode.text) for episode in episodes]
    found = []
    for group, positions in groups.items():
        messages = training.turns.prompt(episodes[positions[0]].prompt_id).messages
        judged = [*(message["content"] for message in messages), *(texts[k] for k in positions)]
        nonce = nonce_for(seed, f"{STAGE}/{step}/{group}", judged) if config.delimiters == "nonce" else None
        for asked in combinations(positions, 2) if config.reading == "pairwise" else ((k,) for k in positions):
            answers = [texts[k] for k in asked]
            if len(set(answers)) == len(answers):
                row_id = f"{step}/{group}/{'-'.join(str(episodes[k].sample_index) for k in asked)}"
                row = {ROW_ID: row_id, "messages": messages, "answers": answers, "nonce": nonce}
                found.append(Question(tuple(asked), row))
    return found


def rewards_of(asked: Sequence[Question], outcomes: Sequence[Mapping[str, Any]], num: int) -> list[float | None]:
    """[num], in [0, 1]: each answer's verdict, or the mean of its comparisons; None where none could be read.

    Answers that are compared with nothing but their like have won half of it.
    """
    found: defaultdict[int, list[float]] = defaultdict(list)
    for question, outcome in zip(asked, outcomes, strict=True):
        if outcome["row"] is not None:
            first, *other = question.positions
            found[first].append(outcome["row"]["verdict"])
            for k in other:
                found[k].append(1 - outcome["row"]["verdict"])
    in_doubt = {k for question in asked for k in question.positions}
    return [fmean(found[k]) if found[k] else None if k in in_doubt else 0.5 for k in range(num)]


def counters_of(outcomes: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """What the judge read and wrote, as the manifest counts it."""
    totals: Counter[str] = Counter()
    for outcome in outcomes:
        totals.update(dict(outcome["counters"]))
    found = {
        counted.JUDGE_TOKENS: totals[counted.PROMPT_TOKENS] + totals[counted.OUTPUT_TOKENS],
        counted.JUDGE_CACHED_TOKENS: totals[counted.CACHED_TOKENS],
        counted.MICRODOLLARS: totals[counted.MICRODOLLARS],
    }
    return Counter({name: num for name, num in found.items() if num})


def _why(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """Why verdicts could not be read: the commonest reason, and one case of it."""
    dropped = [outcome["dropped"] for outcome in outcomes if outcome["dropped"] is not None]
    if not dropped:
        return ""
    reason, num = Counter(drop["reason"] for drop in dropped).most_common(1)[0]
    case = next(drop for drop in dropped if drop["reason"] == reason)
    return f"{reason}, {num} of {len(outcomes)} verdicts, such as {case['row_id']}: {case['detail']}"
