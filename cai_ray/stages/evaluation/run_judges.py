"""Run the judges of a recipe over the policies' answers, and look their judgements up.  Responses -> Judgement.

Each judge's judgements are an artifact of their own, `evaluate/judged/<judge>`: a killed run goes on where it was, and
what could not be judged is in its Dropped rows, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.config import ModelConfig
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.row_ids import EVALUATION_IDS, evaluation_row_id
from cai_ray.rows import ANSWER, JUDGEMENT
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.folders import JUDGED, STAGE, TO_JUDGE
from cai_ray.stages.evaluation.judges.base import AnswerJudge, JudgeConfig, Row
from cai_ray.stages.evaluation.scorers import Answer

ROWS_PER_PART = 2_000


# --- Answers --------------------------------------------------------------------------------------------


def flat_answers(answers: Mapping[str, Artifact]) -> Iterator[Row]:
    """Rows of the ANSWER schema: every policy's, one per sample."""
    for policy, own in answers.items():
        for row in own.rows(["prompt_id", "kind", "messages", "responses"]):
            carried = {name: row[name] for name in ("prompt_id", "kind", "messages")}
            for k, response in enumerate(row["responses"]):
                yield {"policy": policy, **carried, "sample_index": k, "response": response}


def commit_answers(answers: Mapping[str, Artifact], stage: StageSpec) -> Artifact:
    """All policies' answers as one artifact, so that a judge is loaded once for all of them."""
    found = (Outcome(row_id_of(row), row) for row in flat_answers(answers))
    return derive(stage.inner(TO_JUDGE, EVALUATION_IDS), batched(found, ROWS_PER_PART), ANSWER)


def row_id_of(row: Row) -> str:
    """Of an answer, or of a judgement of it."""
    return evaluation_row_id(row["policy"], row["prompt_id"], row["sample_index"])


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
    judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], stage: StageSpec, context: Context
) -> list[JudgedScorer]:
    """Have every judge of single answers judge what it has not judged yet."""
    scorers = []
    for judge in judges:
        if not isinstance(judge, AnswerJudge):
            continue  # matches.py
        judged = _judged(judge, answers, stage, context)
        found: dict[str, dict[str, float | None]] = {
            row_id_of(row): {score["metric"]: score["value"] for score in row["scores"]}
            for row in judged.rows([*EVALUATION_IDS.columns, "scores"])
        }
        found |= {row["row_id"]: dict.fromkeys(judge.metrics) for row in judged.dropped()}
        scorers.append(JudgedScorer(judge.label, judge.metrics, found))
    return scorers


def _judged(judge: AnswerJudge, answers: Mapping[str, Artifact], stage: StageSpec, context: Context) -> Artifact:
    model, source = context.model(judge.model), commit_answers(answers, stage)
    spec = stage.inner(f"{JUDGED}/{judge.label}", EVALUATION_IDS, source)
    job = job_of(judge, model, answers, JUDGEMENT, context.seed)
    columns = (*EVALUATION_IDS.columns, "kind", "messages")
    return run_conversations(Conversations(spec, source, columns, job, model, judge.scaling), context.cluster)


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
