"""Policies' answers against each other, judged in both orders.  Responses of two policies -> Game.

The matches are an artifact of `evaluate`, shared by all pairwise judges; each judge's games are another, under
`evaluate/games/<judge>`. What they add up to is in games.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from cai_ray.artifacts.artifact import Artifact, StageSpec, find
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.row_ids import GAME_IDS, MATCH_IDS, match_id_of
from cai_ray.rows import GAME, MATCH
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.folders import GAMES, MATCHES
from cai_ray.stages.evaluation.judges.base import JudgeConfig, Row
from cai_ray.stages.evaluation.judges.pairwise import PairwiseJudge
from cai_ray.stages.evaluation.run_judges import job_of

ROWS_PER_PART = 2_000


# --- Matches --------------------------------------------------------------------------------------------


def matches(answers: Mapping[str, Artifact]) -> Iterator[Row]:
    """Rows of the MATCH schema: every two policies, each answer of the one against the same sample of the other.

    A prompt that either of them has not answered makes no match.
    """
    for policy_a, policy_b in combinations(answers, 2):
        others = {row["prompt_id"]: row["responses"] for row in answers[policy_b].rows(["prompt_id", "responses"])}
        for row in answers[policy_a].rows(["prompt_id", "messages", "kind", "category", "responses"]):
            pairs = zip(row["responses"], others.get(row["prompt_id"], ()), strict=False)
            for k, (response_a, response_b) in enumerate(pairs):
                yield {
                    "match_id": match_id_of(policy_a, policy_b, row["prompt_id"], k),
                    "policy_a": policy_a,
                    "policy_b": policy_b,
                    "prompt_id": row["prompt_id"],
                    "sample_index": k,
                    "category": row["category"],
                    "kind": row["kind"],
                    "messages": row["messages"],
                    "response_a": response_a,
                    "response_b": response_b,
                }


def commit_matches(answers: Mapping[str, Artifact], stage: StageSpec) -> Artifact:
    """All matches as an artifact inside the stage's, which is what engines read."""
    found = (Outcome(row["match_id"], row) for row in matches(answers))
    return derive(stage.inner(MATCHES, MATCH_IDS), batched(found, ROWS_PER_PART), MATCH)


# --- Running --------------------------------------------------------------------------------------------


def run_games(
    judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], stage: StageSpec, context: Context
) -> None:
    """Have every pairwise judge judge the matches that it has not judged yet."""
    chosen = [judge for judge in judges if isinstance(judge, PairwiseJudge)]
    if not chosen:
        return
    source = commit_matches(answers, stage)
    for judge in chosen:
        model, spec = context.model(judge.model), stage.inner(f"{GAMES}/{judge.label}", GAME_IDS, source)
        if find(spec.folder) is None:
            job, columns = job_of(judge, model, answers, GAME, context.seed), ("match_id", "kind", "policy_a")
            run_conversations(Conversations(spec, source, columns, job, model, judge.scaling), context.cluster)
