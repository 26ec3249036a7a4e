"""Policies' answers against each other, judged in both orders.  Responses of two policies -> Game.

The matches are an artifact of `evaluate`, shared by all pairwise judges; each judge's games are another, under
`evaluate/games/<judge>`. What they add up to is in games.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, find, open_stage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.dropped import DROPPED
from cai_ray.engines.conversations.stage import StageSpec, run_conversations
from cai_ray.rows import GAME, MATCH, match_id_of
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.folders import GAMES, MATCHES, STAGE
from cai_ray.stages.evaluation.judges.base import JudgeConfig
from cai_ray.stages.evaluation.judges.pairwise import PairwiseJudge
from cai_ray.stages.evaluation.run_judges import job_of

ROWS_PER_PART = 2_000

Row = dict[str, Any]


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


def commit_matches(answers: Mapping[str, Artifact], plain: Row, context: Context) -> Artifact:
    """All matches as an artifact, which is what engines read."""
    folder, fingerprint = context.folder(STAGE) / MATCHES, context.fingerprints[STAGE]
    opened = open_stage(folder, STAGE, fingerprint, plain, {}, lambda rows: rows["match_id"], ("match_id",))
    if isinstance(opened, Artifact):
        return opened
    for part in opened.parts:  # joining is quick, so an interrupted pass starts over
        remove_part(folder, part)
    ids: list[str] = []
    found = matches(answers)
    while batch := list(islice(found, ROWS_PER_PART)):
        own = [row["match_id"] for row in batch]
        write_part(folder, pa.Table.from_pylist(batch, MATCH), DROPPED.empty_table(), own)
        ids += own
    return opened.commit(pa.array(ids, pa.string()))


def row_ids(games: pa.Table) -> pa.Array:
    """The units that Game rows answer."""
    names = ("policy_a", "policy_b", "prompt_id", "sample_index")
    keys = zip(*(games[name].to_pylist() for name in names), strict=True)
    return pa.array([match_id_of(*key) for key in keys], pa.string())


# --- Running --------------------------------------------------------------------------------------------


def run_games(judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], plain: Row, context: Context) -> None:
    """Have every pairwise judge judge the matches that it has not judged yet. `plain`: the stage's settings."""
    chosen = [judge for judge in judges if isinstance(judge, PairwiseJudge)]
    if not chosen:
        return
    source = commit_matches(answers, plain, context)
    for judge in chosen:
        model = context.model(judge.model)
        folder = context.folder(STAGE) / GAMES / judge.label
        if find(folder) is None:
            spec = StageSpec(
                folder=folder,
                fingerprint=context.fingerprints[STAGE],
                config=plain,
                source=source,
                row_ids=row_ids,
                key_columns=("policy_a", "policy_b", "prompt_id", "sample_index"),
                unit_columns=("match_id", "kind", "policy_a"),
            )
            job = job_of(judge, model, answers, GAME, context.seed)
            run_conversations(spec, job, model, judge.scaling, context.cluster)
