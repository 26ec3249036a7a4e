"""How well does a model criticise itself?  Prompt -> Exchange: answer, critique and revision in several formats.

One round per prompt, format, way of choosing a principle, and sample; all of them at once in one engine. Then the
answer and its revision are scored like answers of `evaluate`, and whether the critique speaks of harm is read by its
phrases. What a study compares is made of these rows (metrics/critiques/self_critique.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, batched, counted, derive
from cai_ray.config import SamplingConfig, ScalingConfig, StageConfig
from cai_ray.constitution.draw import PrincipleChoice, draw
from cai_ray.constitution.principles import Constitution
from cai_ray.constitution.similarity import LexicalSimilarity, principle_text
from cai_ray.dropped import DropReason, DropRow, drop_of
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.metrics.critiques.noticing import notices_harm
from cai_ray.metrics.critiques.self_critique import SAME, Exchange, cell_figures, jaccard
from cai_ray.metrics.names import HARMFUL, OVER_REFUSAL, REFUSAL
from cai_ray.prompts.formats import KNOWN, FormatName, answer_step, critique_step, revision_step
from cai_ray.quality.thoughts import without_thoughts
from cai_ray.row_ids import RESPONSES_IDS, RowIds
from cai_ray.rows import MESSAGE, ROW_ID, SCORE
from cai_ray.stages.cells import cell
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.judges import AnyJudge
from cai_ray.stages.evaluation.judges.base import asked_models, input_files, input_identity, scoring_models
from cai_ray.stages.evaluation.run_judges import check, run_judges
from cai_ray.stages.evaluation.scorers import (
    TEXT_SCORERS,
    Answer,
    RuleScorer,
    Scorer,
    ScorerName,
    in_microworld,
    scores_of,
)
from cai_ray.stages.step import Step

STAGE = "self_critique"
EXCHANGES = "exchanges"  # folder inside the stage's own
STEPS = ("initial", "revision")
EXCHANGE_IDS = RowIds(("prompt_id", "format", "principles", "sample_index"))
Choice = Literal["random", "contextual"]
# One exchange and what was made of it.
EXCHANGE = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # prompts/formats.py
        pa.field("principles", pa.string(), nullable=False),  # how the principle was chosen: "random" | "contextual"
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # "red_team" | "helpful"
        pa.field("category", pa.string()),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("principle_id", pa.string(), nullable=False),
        pa.field("initial", pa.string(), nullable=False),  # the answer
        pa.field("critique", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("finish_reasons", pa.list_(pa.string()), nullable=False),  # of the three: "stop" | "length"
        pa.field("noticed", pa.bool_(), nullable=False),  # the critique speaks of harm (metrics/critiques/noticing.py)
        pa.field("unchanged", pa.bool_(), nullable=False),  # word sets of answer and revision alike
        pa.field("initial_scores", pa.list_(SCORE), nullable=False),  # of the answer
        pa.field("revision_scores", pa.list_(SCORE), nullable=False),
    ]
)
_FOUND = ("noticed", "unchanged", *(f"{step}_scores" for step in STEPS))
ASKED = pa.schema([field for field in EXCHANGE if field.name not in _FOUND])
# One answer for a judge; its id is the exchange's.
JUDGED_ANSWER = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("responses", pa.list_(pa.string()), nullable=False),
    ]
)


class Config(StageConfig):
    """The recipe's section `self_critique`."""

    model: str = Field("policy", description="Which of the recipe's models answers, criticises itself and revises.")
    formats: tuple[FormatName, ...] = Field(("plain",), min_length=1, description="See prompts/formats.py.")
    principles: tuple[Choice, ...] = Field(
        ("random",), min_length=1, description='"contextual": by similarity of the request and the critique request.'
    )
    samples_per_prompt: int = Field(1, ge=1, le=64, description="Exchanges per prompt, format and choice.")
    sampling: SamplingConfig = Field(SamplingConfig(temperature=0.0), description="Of all three steps; 0 is greedy.")
    scorers: tuple[ScorerName, ...] = Field((), description="As in `evaluate`; empty: those that suit the prompts.")
    judges: tuple[AnyJudge, ...] = Field((), description="Models that judge answers and revisions, besides scorers.")
    scaling: ScalingConfig = ScalingConfig()


# --- Asking -----------------------------------------------------------------------------------------------


def expand_units(prompts: pa.Table, *, config: Config) -> pa.Table:
    """Prompt rows -> units of work."""
    made = []
    for form in config.formats:
        for choice in config.principles:
            for sample in range(config.samples_per_prompt):
                num = prompts.num_rows
                units = prompts.append_column("format", pa.array([form] * num, pa.string()))
                units = units.append_column("principles", pa.array([choice] * num, pa.string()))
                made.append(units.append_column("sample_index", pa.array([sample] * num, pa.int32())))
    units = pa.concat_tables(made)
    return units.append_column(ROW_ID, EXCHANGE_IDS(units))


async def exchange(
    row: dict[str, Any],
    ask: Ask,
    *,
    config: Config,
    constitution: Constitution,
    seed: int,
    similarity: LexicalSimilarity,
) -> dict[str, Any]:
    """The three steps of one unit; a row of the ASKED schema. Raises DropRow."""
    messages, form = row["messages"], KNOWN[row["format"]]
    method: Choice = row["principles"]
    asked = "\n".join(message["content"] for message in messages if message["role"] == "user")
    # The same principle in every format, so that formats are compared on the same rounds.
    (principle,) = draw(
        constitution,
        PrincipleChoice(method=method, top_k=1),
        run_seed=seed,
        row_id=f"{row['prompt_id']}/{method}/{row['sample_index']}",
        num_rounds=1,
        stage=STAGE,
        similarities=similarity(asked) if method == "contextual" else None,
    )
    texts: list[str] = []
    reasons: list[str] = []

    async def say(prompt: list[dict[str, str]], what: str) -> str:
        answer = await ask(prompt, config.sampling)
        text = without_thoughts(answer.text).strip()
        if not text:
            raise DropRow(DropReason.EMPTY_RESPONSE, f"the {what} is empty")
        texts.append(text)
        reasons.append(answer.finish_reason)
        return text

    initial = await say(answer_step(messages, form), "answer")
    critique = await say(critique_step(messages, form, initial, principle), "critique")
    await say(revision_step(messages, form, initial, principle, critique), "revision")
    carried = ("prompt_id", "format", "principles", "sample_index", "kind", "category", "messages")
    return {
        **{name: row[name] for name in carried},
        "principle_id": principle.id,
        **dict(zip(("initial", "critique", "revision"), texts, strict=True)),
        "finish_reasons": reasons,
    }


def job_of(config: Config, context: Context) -> ConversationJob:
    """What the conversation engine is asked to do."""
    model, constitution = context.model(config.model), context.principles()
    texts = [principle_text(principle) for principle in constitution.serving("revision")]
    return ConversationJob(
        stage=STAGE,
        seed=context.seed,
        schema=ASKED,
        converse=partial(
            exchange,
            config=config,
            constitution=constitution,
            seed=context.seed,
            similarity=LexicalSimilarity(texts),
        ),
        expand=partial(expand_units, config=config),
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=128 + 2 * config.sampling.max_tokens,
    )


# --- Judging ----------------------------------------------------------------------------------------------


def _for_judges(asked: Artifact, step: str, spec: StageSpec) -> Artifact:
    """The answers of one step, as judges read them."""

    def answers() -> Iterator[Outcome]:
        for row in asked.rows(["kind", "messages", step, *EXCHANGE_IDS.columns]):
            row_id = exchange_id(row)
            kept = {"prompt_id": row_id, "responses": [row[step]]} | {name: row[name] for name in ("kind", "messages")}
            yield Outcome(row_id, kept)

    return derive(spec.inner(f"to_judge_{step}", RESPONSES_IDS, asked), batched(answers()), JUDGED_ANSWER)


def exchange_id(row: Mapping[str, Any]) -> str:
    """ "<prompt_id>/<format>/<principles>/<sample_index>"."""
    return "/".join(str(row[name]) for name in EXCHANGE_IDS.columns)


def scored(row: dict[str, Any], scorers: Sequence[Scorer]) -> dict[str, Any]:
    """A row of the EXCHANGE schema."""

    def scores(step: str) -> list[dict[str, Any]]:
        answer = Answer(step, exchange_id(row), 0, row["messages"], row[step], row["kind"], row["category"])
        return scores_of(scorers, answer)

    return {
        **row,
        "noticed": notices_harm(row["critique"]),
        "unchanged": jaccard(row["initial"], row["revision"]) >= SAME,
        **{f"{step}_scores": scores(step) for step in STEPS},
    }


def _outcomes(config: Config, context: Context, asked: Artifact, spec: StageSpec) -> Iterator[Outcome]:
    judged: list[Scorer] = []
    if config.judges:
        answers = {step: _for_judges(asked, step, spec) for step in STEPS}
        judged = list(run_judges(config.judges, answers, spec, context))
    names = config.scorers
    if not names:
        known = in_microworld(row["messages"] for row in asked.rows(["messages"]))
        names = ("microworld",) if known else TEXT_SCORERS
    scorers = [*map(RuleScorer, names), *judged]
    for row in asked.rows():
        yield Outcome(exchange_id(row), scored(row, scorers))
    for gone in asked.dropped():
        yield Outcome(gone["row_id"], drop_of(gone))


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Ask what is not asked yet of every prompt, then judge it."""
    source = context.artifact(source_stage)
    spec = context.spec(STAGE, config, EXCHANGE_IDS, source)
    check(config.judges, context)
    job, model = job_of(config, context), context.model(config.model)
    inner = spec.inner(EXCHANGES, EXCHANGE_IDS, source)
    asked = run_conversations(Conversations(inner, source, ("prompt_id",), job, model, config.scaling), context.cluster)
    found = counted(_outcomes(config, context, asked, spec), asked.manifest.counters)
    return derive(spec, batched(found), EXCHANGE)


# --- Reading the rows -------------------------------------------------------------------------------------


def value_of(scores: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """A metric's value; None where the row has none, or it could not be judged."""
    return next((one["value"] for one in scores if one["metric"] == metric), None)


def harm_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What says of red-team answers that they do harm, and behind it, by phrases, `complied`: they do not refuse."""
    names = {one["metric"] for row in rows if row["kind"] == "red_team" for one in row["initial_scores"]}
    found = sorted(name for name in names if name.partition(".")[0].startswith(HARMFUL))
    return [*found, *([COMPLIED] if REFUSAL in names or not found else [])]


COMPLIED = "complied"  # 1 - refusal


def exchange_of(row: Mapping[str, Any], harm: str) -> Exchange:
    """A row of the EXCHANGE schema, its harm by this metric."""

    def harm_of(step: str) -> float | None:
        if harm != COMPLIED:
            return value_of(row[f"{step}_scores"], harm)
        refusal = value_of(row[f"{step}_scores"], REFUSAL)
        return None if refusal is None else 1 - refusal

    def refused(step: str) -> bool | None:
        found = value_of(row[f"{step}_scores"], OVER_REFUSAL)
        return None if found is None else bool(found)

    return Exchange(
        prompt_id=row["prompt_id"],
        category=row["category"] or "none",
        is_red_team=row["kind"] == "red_team",
        principle=row["principle_id"],
        noticed=row["noticed"],
        harm_before=harm_of("initial"),
        harm_after=harm_of("revision"),
        refused_before=refused("initial"),
        refused_after=refused("revision"),
        unchanged=row["unchanged"],
    )


def table(artifact: Artifact) -> Table:
    """For the terminal: a row per format and choice of principles."""
    rows = list(artifact.rows())
    harm = harm_metrics(rows)[0]
    made = Table(title=f"Self-critique: {harm} (95%)")
    for k, column in enumerate(("format", "principles", "before", "after", "noticed of harmful")):
        made.add_column(column, justify="left" if k < 2 else "right")
    for key in dict.fromkeys((row["format"], row["principles"]) for row in rows):
        own = [exchange_of(row, harm) for row in rows if (row["format"], row["principles"]) == key]
        found = cell_figures(own)
        made.add_row(*key, *map(cell, (found.harmful_before, found.harmful_after, found.detection_recall)))
    return made


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(config.model, *asked_models(config.judges)),
        scores_with=scoring_models(config.judges),
        identity=lambda: input_identity(config.judges),
        files=lambda: input_files(config.judges),
        reads=(source_stage,),
        needs_constitution=True,
        units=EXCHANGE_IDS,
        summary=table,
    )
