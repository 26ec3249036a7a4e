"""Run the judges of a recipe over the policies' answers, and look their judgements up.  Responses -> Judgement.

Each judge's judgements are an artifact of their own, `evaluate/judged/<judge>`: a killed run goes on where it was, and
what could not be judged is in its Dropped rows, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.config import ModelConfig
from cai_ray.dropped import DROPPED
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import StageSpec, run_conversations
from cai_ray.rows import ANSWER, EVALUATION_KEY, JUDGEMENT, evaluation_row_id, evaluation_row_ids
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.folders import JUDGED, STAGE, TO_JUDGE
from cai_ray.stages.evaluation.judges.base import AnswerJudge, JudgeConfig
from cai_ray.stages.evaluation.scorers import Answer

ROWS_PER_PART = 2_000

Row = dict[str, Any]


# --- Answers --------------------------------------------------------------------------------------------


def flat_answers(answers: Mapping[str, Artifact]) -> Iterator[Row]:
    """Rows of the ANSWER schema: every policy's, one per sample."""
    for policy, own in answers.items():
        for row in own.rows(["prompt_id", "kind", "messages", "responses"]):
            carried = {name: row[name] for name in ("prompt_id", "kind", "messages")}
            for k, response in enumerate(row["responses"]):
                yield {"policy": policy, **carried, "sample_index": k, "response": response}


def commit_answers(answers: Mapping[str, Artifact], plain: Row, context: Context) -> Artifact:
    """All policies' answers as one artifact, so that a judge is loaded once for all of them."""
    folder, fingerprint = context.folder(STAGE) / TO_JUDGE, context.fingerprints[STAGE]
    opened = open_stage(folder, STAGE, fingerprint, plain, {}, evaluation_row_ids, EVALUATION_KEY)
    if isinstance(opened, Artifact):
        return opened
    for part in opened.parts:  # flattening is quick, so an interrupted pass starts over
        remove_part(folder, part)
    ids: list[str] = []
    found = flat_answers(answers)
    while batch := list(islice(found, ROWS_PER_PART)):
        table = pa.Table.from_pylist(batch, ANSWER)
        own = evaluation_row_ids(table).to_pylist()
        write_part(folder, table, DROPPED.empty_table(), own)
        ids += own
    return opened.commit(pa.array(ids, pa.string()))


# --- Running --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedScorer:
    """A judge's metrics of answers that it has judged; a Scorer."""

    name: str
    metrics: tuple[str, ...]
    found: Mapping[str, Mapping[str, float | None]]  # evaluation_row_id -> metric -> value; None: it could not judge

    @property
    def judge(self) -> str:
        return self.name

    def __call__(self, answer: Answer) -> Mapping[str, float | None]:
        return self.found.get(evaluation_row_id(answer.policy, answer.prompt_id, answer.sample_index), {})


def check(judges: Sequence[JudgeConfig], context: Context) -> None:
    """Raises ConfigError where every row of a judge would fail. Reads configs and files, and asks an endpoint once."""
    for judge in judges:
        judge.check(context.model(judge.model), context.seed)


def run_judges(
    judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], plain: Row, context: Context
) -> list[JudgedScorer]:
    """Have every judge of single answers judge what it has not judged yet. `plain`: the stage's settings."""
    scorers = []
    for judge in judges:
        if not isinstance(judge, AnswerJudge):
            continue  # matches.py
        judged = _judged(judge, answers, plain, context)
        found: dict[str, dict[str, float | None]] = {
            evaluation_row_id(*(row[name] for name in EVALUATION_KEY)): {s["metric"]: s["value"] for s in row["scores"]}
            for row in judged.rows([*EVALUATION_KEY, "scores"])
        }
        found |= {row["row_id"]: dict.fromkeys(judge.metrics) for row in judged.dropped()}
        scorers.append(JudgedScorer(judge.label, judge.metrics, found))
    return scorers


def _judged(judge: AnswerJudge, answers: Mapping[str, Artifact], plain: Row, context: Context) -> Artifact:
    model = context.model(judge.model)
    spec = StageSpec(
        folder=context.folder(STAGE) / JUDGED / judge.label,
        fingerprint=context.fingerprints[STAGE],
        config=plain,
        source=commit_answers(answers, plain, context),
        row_ids=evaluation_row_ids,
        key_columns=EVALUATION_KEY,
        unit_columns=(*EVALUATION_KEY, "kind", "messages"),
    )
    job = job_of(judge, model, answers, JUDGEMENT, context.seed)
    return run_conversations(spec, job, model, judge.scaling, context.cluster)


def job_of(
    judge: JudgeConfig, model: ModelConfig, answers: Mapping[str, Artifact], schema: pa.Schema, seed: int
) -> ConversationJob:
    """What the conversation engine is asked to do. `schema`: of the rows that the judge makes."""
    return ConversationJob(
        stage=STAGE,
        seed=seed,
        schema=schema,
        converse=judge.row_function(model, seed),
        expand=judge.units(answers),
        make_backend=judge.engine(model),
        engine=model.engine,
        expected_tokens=1024,
        count=count_labels,
    )


def count_labels(row: Row) -> dict[str, int]:
    """Counters of one Judgement row for the manifest; a game has no labels."""
    return {f"label.{name}": 1 for name in row.get("labels", ())}
