"""Run the judges of a recipe over the policies' answers, and look their judgements up.  Responses -> Judgement.

Each judge's judgements are an artifact of their own, `evaluate/judged/<judge>`: a killed run goes on where it was, and
what could not be judged is in its Dropped rows, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.dropped import DROPPED
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import StageSpec, run_conversations
from cai_ray.engines.models.classifier import InputForm
from cai_ray.engines.models.load_classifier import is_multi_label, labels_of
from cai_ray.errors import ConfigError
from cai_ray.metrics.classes import label_probability
from cai_ray.prompts.judges.yes_no import OPTIONS as YES_NO
from cai_ray.prompts.judges.yes_no import fields_of, yes_no_messages
from cai_ray.rows import ANSWER, JUDGEMENT, ROW_ID, evaluation_row_id
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.judges import asking as judging
from cai_ray.stages.evaluation.judges.named import (
    ClassifierJudge,
    GuardJudge,
    JudgeConfig,
    ModerationJudge,
    PairwiseJudge,
    RatingJudge,
    RewardJudge,
    SimilarityJudge,
    WildGuardJudge,
    YesNoJudge,
    read_text,
)
from cai_ray.stages.evaluation.scorers import Answer

STAGE = "evaluate"
JUDGED = "judged"  # folders inside the stage's own
TO_JUDGE = "to_judge"
KEY = ("policy", "prompt_id", "sample_index")
ROWS_PER_PART = 2_000

Row = dict[str, Any]


# --- Answers --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class References:
    """Texts that answers are compared with."""

    policy: str | None  # the one that gave them: its own answers are not compared
    by_answer: Mapping[str, str]  # "<prompt_id>/<sample_index>" -> text
    by_prompt: Mapping[str, str]  # a prompt's last message, stripped -> text

    def of(self, row: Row) -> str | None:
        if row["policy"] == self.policy:
            return None
        own = self.by_answer.get(f"{row['prompt_id']}/{row['sample_index']}")
        return self.by_prompt.get(row["messages"][-1]["content"].strip()) if own is None else own


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
    opened = open_stage(folder, STAGE, fingerprint, plain, {}, row_ids, KEY)
    if isinstance(opened, Artifact):
        return opened
    for part in opened.parts:  # flattening is quick, so an interrupted pass starts over
        remove_part(folder, part)
    ids: list[str] = []
    found = flat_answers(answers)
    while batch := list(islice(found, ROWS_PER_PART)):
        table = pa.Table.from_pylist(batch, ANSWER)
        own = row_ids(table).to_pylist()
        write_part(folder, table, DROPPED.empty_table(), own)
        ids += own
    return opened.commit(pa.array(ids, pa.string()))


def expand_answers(rows: pa.Table, *, prompts: str, references: References | None = None) -> pa.Table:
    """Answer rows -> units of work: those to such prompts; with references, those that have one, in `reference`."""
    units = rows.append_column(ROW_ID, row_ids(rows))
    if prompts != "all":
        units = units.filter(pc.equal(units["kind"], prompts))
    if references is None:
        return units
    texts = pa.array([references.of(row) for row in units.select([*KEY, "messages"]).to_pylist()], pa.string())
    return units.append_column("reference", texts).filter(pc.is_valid(texts))


def row_ids(rows: pa.Table) -> pa.Array:
    """The units that Judgement rows answer, and the ids of Answer rows."""
    keys = zip(*(rows[name].to_pylist() for name in KEY), strict=True)
    return pa.array([evaluation_row_id(*key) for key in keys], pa.string())


def references_of(judge: SimilarityJudge, answers: Mapping[str, Artifact]) -> References:
    """What the judge compares with. Raises ConfigError for a file that is not JSON lines of prompt and reference."""
    if judge.reference_policy is not None:
        rows = answers[judge.reference_policy].rows(["prompt_id", "responses"])
        by_answer = {f"{row['prompt_id']}/{k}": text for row in rows for k, text in enumerate(row["responses"])}
        return References(judge.reference_policy, by_answer, {})
    assert judge.references is not None
    by_prompt: dict[str, str] = {}
    for number, line in enumerate(read_text(judge.references).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            prompt, reference = record["prompt"].strip(), record["reference"]
            if not isinstance(reference, str):
                raise TypeError("reference is no text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f'{judge.references}, line {number}: {type(error).__name__}: {error}; a line is {{"prompt": "the last '
                'message", "reference": "a good answer"}'
            ) from error
        by_prompt[prompt] = reference
    return References(None, {}, by_prompt)


# --- Jobs -----------------------------------------------------------------------------------------------


def how(judge: JudgeConfig, model: ModelConfig, seed: int) -> tuple[Any, Callable[[], Any]]:
    """The row function of a judge and what makes its engine. Raises ConfigError where every row would fail."""
    if isinstance(judge, RatingJudge):
        return partial(judging.rate, judge=judge, seed=seed), backend_factory(model)
    if isinstance(judge, YesNoJudge):
        converse = partial(judging.answer_yes_no, judge=judge, template=judge.template_text(), seed=seed)
        return converse, backend_factory(model)
    if isinstance(judge, GuardJudge):
        if model.format != "chat":
            raise ConfigError(f"judge {judge.label!r}: a guard is asked by its own chat template; set format to chat")
        return partial(judging.guard, judge=judge), backend_factory(model)
    if isinstance(judge, WildGuardJudge):
        converse = partial(judging.wildguard, judge=judge, template=judge.template_text(), seed=seed)
        return converse, backend_factory(model)
    if isinstance(judge, ModerationJudge):
        if model.endpoint is None:
            raise ConfigError(f"judge {judge.label!r}: moderation is an endpoint's; set models.{judge.model}.endpoint")
        return partial(judging.moderate, judge=judge), partial(_moderation, model)
    if model.endpoint is not None:
        raise ConfigError(
            f"judge {judge.label!r}: kind {judge.kind!r} loads its model by `path`; models.{judge.model} is an endpoint"  # type: ignore[attr-defined]
        )
    if isinstance(judge, ClassifierJudge):
        return _classifier(judge, model), partial(_classifying, model, judge.input)
    if isinstance(judge, RewardJudge):
        form: InputForm = "value_head" if judge.layout == "value_head" else judge.input
        if form != "value_head" and len(labels_of(model)) != 1:
            raise ConfigError(
                f"judge {judge.label!r}: the model at {model.path!r} has outputs {', '.join(labels_of(model))}, and a "
                "reward is one number; use kind classifier"
            )
        return partial(judging.reward, judge=judge), partial(_classifying, model, form, judge.backbone)
    assert isinstance(judge, SimilarityJudge)
    return partial(judging.compare_to_reference, judge=judge), partial(_embedding, model)


def _classifier(judge: ClassifierJudge, model: ModelConfig) -> Any:
    labels, multi_label = labels_of(model), is_multi_label(model)
    try:
        label_probability([0.0] * len(labels), labels, judge.labels, multi_label)
    except ValueError as error:
        raise ConfigError(f"judge {judge.label!r}, model {model.path!r}: {error}") from error
    return partial(judging.classify, judge=judge, labels=labels, multi_label=multi_label)


# Engines whose doors are not `Ask`; nothing heavy is imported before an actor makes one.


def _classifying(model: ModelConfig, form: InputForm, backbone: str | None = None) -> Any:
    from cai_ray.engines.backends.classifier import ClassifierBackend

    return ClassifierBackend(model, form, backbone)


def _moderation(model: ModelConfig) -> Any:
    from cai_ray.engines.backends.moderation import ModerationBackend

    return ModerationBackend(model)


def _embedding(model: ModelConfig) -> Any:
    from cai_ray.engines.backends.embedding import EmbeddingBackend

    return EmbeddingBackend(model)


def check(judges: Sequence[JudgeConfig], context: Context) -> None:
    """Raises ConfigError where every row of a judge would fail. Reads configs and files, and asks an endpoint once."""
    for judge in judges:
        if isinstance(judge, PairwiseJudge):
            continue  # evaluation_matches.py
        model = context.model(judge.model)
        how(judge, model, context.seed)
        if isinstance(judge, SimilarityJudge) and judge.references is not None:
            references_of(judge, {})
        if isinstance(judge, YesNoJudge) and judge.reading == "probability":
            hello: list[Message] = [{"role": "user", "content": "Hello!"}]
            fields = fields_of(hello, "Hello!", "0")
            check_options(model, YES_NO, yes_no_messages(judge.template_text(), judge.system, fields))


def count_labels(row: Row) -> dict[str, int]:
    """Counters of one Judgement row for the manifest."""
    return {f"label.{name}": 1 for name in row["labels"]}


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


def run_judges(
    judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], plain: Row, context: Context
) -> list[JudgedScorer]:
    """Have every judge of single answers judge what it has not judged yet. `plain`: the stage's settings."""
    scorers = []
    for judge in judges:
        if isinstance(judge, PairwiseJudge):
            continue
        judged = _judged(judge, answers, plain, context)
        found: dict[str, dict[str, float | None]] = {
            evaluation_row_id(*(row[name] for name in KEY)): {s["metric"]: s["value"] for s in row["scores"]}
            for row in judged.rows([*KEY, "scores"])
        }
        found |= {row["row_id"]: dict.fromkeys(judge.metrics) for row in judged.dropped()}
        scorers.append(JudgedScorer(judge.label, judge.metrics, found))
    return scorers


def _judged(judge: JudgeConfig, answers: Mapping[str, Artifact], plain: Row, context: Context) -> Artifact:
    model = context.model(judge.model)
    converse, make_backend = how(judge, model, context.seed)
    references = references_of(judge, answers) if isinstance(judge, SimilarityJudge) else None
    job = ConversationJob(
        stage=STAGE,
        seed=context.seed,
        schema=JUDGEMENT,
        converse=converse,
        expand=partial(expand_answers, prompts=judge.prompts, references=references),
        make_backend=make_backend,
        engine=model.engine,
        expected_tokens=1024,
        count=count_labels,
    )
    spec = StageSpec(
        folder=context.folder(STAGE) / JUDGED / judge.label,
        fingerprint=context.fingerprints[STAGE],
        config=plain,
        source=commit_answers(answers, plain, context),
        row_ids=row_ids,
        key_columns=KEY,
        unit_columns=(*KEY, "kind", "messages"),
    )
    return run_conversations(spec, job, model, judge.scaling, context.cluster)
