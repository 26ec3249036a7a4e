"""What each round of revision is worth by the preference model.  Revision, preference model -> Evaluation.

The paper's figure 5: the preference model's score of the initial answer and of every revision, beside harm by the
scorers that need no model. Every answer of a dialogue is a row of its own, under the name of its round; the rounds
are compared over the same dialogues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import Field
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.artifacts.summaries.rounds import RoundEstimates, RoundsSummary
from cai_ray.config import StageConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.engines.models.scoring import Scorer as Classifier
from cai_ray.errors import ConfigError
from cai_ray.metrics.differences import paired_difference
from cai_ray.metrics.evaluations import estimate, flatten
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.names import PREFERENCE_SCORE, most_telling
from cai_ray.row_ids import EVALUATION_IDS, evaluation_row_id, revision_row_id
from cai_ray.rows import EVALUATION
from cai_ray.seeding import digest
from cai_ray.stages.cells import cell
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.scorers import (
    TEXT_SCORERS,
    Answer,
    RuleScorer,
    evaluation,
    in_microworld,
    scores_of,
)
from cai_ray.stages.step import Step, shown

ByPrompt = dict[str, list[float]]  # prompt id -> values
STAGE = "score_rounds"
DIALOGUES_PER_PART = 500
MOST_METRICS = 2  # of the terminal's table, beside the preference score
_COLUMNS = ("prompt_id", "sample_index", "messages", "kind", "category", "initial_response", "revisions")


class Config(StageConfig):
    """The recipe's section `score_rounds`."""

    model: str = Field("preference_model", description="Which of the recipe's models scores.")
    limit: int | None = Field(
        2000, ge=1, description="Most dialogues, drawn by the run's seed; one process scores. Null: all."
    )


def round_name(k: int) -> str:
    """The `policy` of a round's rows: 0 is the initial answer, k the k-th revision."""
    return f"round_{k}"


def answers(row: dict[str, Any]) -> list[Answer]:
    """A dialogue's initial answer and each revision, in order."""
    texts = [row["initial_response"], *(done["revision"] for done in row["revisions"])]
    asked = (row["prompt_id"], row["sample_index"], row["messages"])
    return [Answer(round_name(k), *asked, text, row["kind"], row["category"]) for k, text in enumerate(texts)]


def revised_dialogues(source: Artifact) -> list[str]:
    """Ids of the dialogues that were revised. Raises ConfigError when there is none."""
    found = [
        revision_row_id(row["prompt_id"], row["sample_index"])
        for row in source.rows(["prompt_id", "sample_index", "revisions"])
        if row["revisions"]
    ]
    if not found:
        raise ConfigError(f"{source.folder.shown} holds no revised answer to score; set revise.num_revisions above 0")
    return found


def chosen_dialogues(source: Artifact, limit: int | None, run_seed: int) -> set[str]:
    """Ids of the dialogues to score, of those that were revised. Raises ConfigError when there is none."""
    found = revised_dialogues(source)
    return set(sorted(found, key=lambda row_id: digest(run_seed, STAGE, row_id, "limit"))[:limit])


def dialogues(source: Artifact, chosen: set[str]) -> Iterator[dict[str, Any]]:
    """The chosen rows of the schema REVISION."""
    for row in source.rows(_COLUMNS):
        if revision_row_id(row["prompt_id"], row["sample_index"]) in chosen:
            yield row


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Score every answer of the chosen dialogues. An interrupted pass starts over."""
    source = context.artifact(source_stage)
    return derive(context.spec(STAGE, config, EVALUATION_IDS, source), _scored(config, context, source), EVALUATION)


def _scored(config: Config, context: Context, source: Artifact) -> Iterator[list[Outcome]]:
    """The end of every answer, some dialogues at a time."""
    chosen = chosen_dialogues(source, config.limit, context.seed)
    known = in_microworld(row["messages"] for row in dialogues(source, chosen))
    scorers = [RuleScorer(name) for name in (("microworld",) if known else TEXT_SCORERS)]
    score = Classifier(context.model(config.model).path, STAGE).score
    found = dialogues(source, chosen)

    def scored(answer: Answer, value: float) -> dict[str, Any]:
        own = {"metric": PREFERENCE_SCORE, "value": value, "judge": config.model}
        return evaluation(answer, [own, *scores_of(scorers, answer)])

    too_long = DropRow(DropReason.TOO_LONG, "the answer with its conversation exceeds the model's context")
    while batch := [answer for row in islice(found, DIALOGUES_PER_PART) for answer in answers(row)]:
        values = score([(one.messages, one.response) for one in batch])
        yield [
            Outcome(
                evaluation_row_id(answer.policy, answer.prompt_id, answer.sample_index),
                too_long if value is None else scored(answer, value),
            )
            for answer, value in zip(batch, values, strict=True)
        ]
    limit = DropRow(LeftOutReason.LIMIT, f"more than limit={config.limit}")
    unasked = (answer for row in dialogues(source, set(revised_dialogues(source)) - chosen) for answer in answers(row))
    yield from batched(
        Outcome(evaluation_row_id(one.policy, one.prompt_id, one.sample_index), limit) for one in unasked
    )


# --- The summary ----------------------------------------------------------------------------------------


def summarise(artifact: Artifact) -> RoundsSummary:
    """Each metric by round with its 95% interval over prompts, and each round less the one before, paired."""
    values: defaultdict[int, defaultdict[str, ByPrompt]] = defaultdict(lambda: defaultdict(dict))
    num_dialogues = 0
    for table in artifact.tables():
        for row in flatten(table).to_pylist():
            k = int(row["policy"].removeprefix(round_name(0)[:-1]))
            num_dialogues += k == 0 and row["metric"] == PREFERENCE_SCORE
            if row["value"] is not None:
                values[k][row["metric"]].setdefault(row["prompt_id"], []).append(row["value"])
    return RoundsSummary(
        rows_in=artifact.manifest.rows_in,
        rows_out=artifact.manifest.rows_out,
        rows_dropped=artifact.manifest.rows_dropped,
        rows_left_out=artifact.manifest.rows_left_out,
        num_dialogues=num_dialogues,
        judge=artifact.manifest.config["model"],
        rounds=tuple(RoundEstimates(round=k, **_estimates(values[k])) for k in sorted(values)),
        changes=tuple(
            RoundEstimates(round=k, **_changes(values[k - 1], values[k])) for k in sorted(values) if k - 1 in values
        ),
        duration_s=artifact.manifest.duration_s,
    )


def _estimates(metrics: dict[str, ByPrompt]) -> dict[str, Estimate | None]:
    found = {}
    for metric, by_prompt in metrics.items():
        flat = [(value, prompt_id) for prompt_id, own in by_prompt.items() for value in own]
        found[metric] = estimate([value for value, _ in flat], [prompt_id for _, prompt_id in flat])
    return found


def _changes(before: dict[str, ByPrompt], after: dict[str, ByPrompt]) -> dict[str, Estimate | None]:
    found = {}
    for metric in after:
        means = [
            {prompt_id: sum(own) / len(own) for prompt_id, own in side.get(metric, {}).items()}
            for side in (before, after)
        ]
        found[metric] = paired_difference(*means)
    return found


def table(summary: RoundsSummary) -> Table:
    """Rounds below each other, for the terminal: the preference score, and the first metrics of harm and help.

    The report has every metric.
    """
    metrics = {metric for one in summary.rounds for metric in one.metrics}
    columns = [PREFERENCE_SCORE, *most_telling(metrics - {PREFERENCE_SCORE}, MOST_METRICS)]
    shown = Table(title=f"{summary.num_dialogues:,} dialogues, scored by {summary.judge} (95%)")
    shown.add_column("round")
    for metric in columns:
        shown.add_column(metric.replace("_", " "), justify="right")
    for one in summary.rounds:
        score, *others = (one.metrics.get(metric) for metric in columns)
        shown.add_row(
            "initial" if one.round == 0 else str(one.round), cell(score, "{:+.2f}".format), *map(cell, others)
        )
    return shown


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        scores_with=(config.model,),
        reads=(source_stage,),
        leaves_unasked=True,
        summary=shown(RoundsSummary, summarise, table),
    )
