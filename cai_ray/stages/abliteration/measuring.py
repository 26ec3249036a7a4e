"""What taking the direction out has done: each form of the model on the test prompts.  Probed -> Measured.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.algorithms.directions import kl
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.abliteration import AbliterationSummary, FormFigures
from cai_ray.engines.backends.in_process.probe import AS_IS, ProbeConversation
from cai_ray.metrics.differences import paired_difference
from cai_ray.metrics.intervals import clustered_mean, rate
from cai_ray.metrics.refusals import read
from cai_ray.row_ids import RowIds
from cai_ray.rows import ROW_ID
from cai_ray.stages.abliteration.config import ABLATED, HARMFUL, HARMLESS, WEIGHTS, Config

UNCHANGED = "as_is"
MEASURED_IDS = RowIds(("form", "prompt_id"))
# One form's answer to one test prompt.
MEASURED = pa.schema(
    [
        pa.field("form", pa.string(), nullable=False),  # "as_is" | "ablated" | "reverse" | "ablated_weights"
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),  # "harmful" | "harmless"
        pa.field("category", pa.string()),
        pa.field("response", pa.string(), nullable=False),  # greedy, at most max_tokens
        pa.field("refused", pa.bool_(), nullable=False),  # by its phrases (metrics/refusals.py)
        pa.field("first_token_kl", pa.float64(), nullable=False),  # nats, from the model as it is
        pa.field("gap_kl", pa.float64()),  # nats, from the run-time form; null but for "ablated_weights"
        pa.field("log_likelihood", pa.float64(), nullable=False),  # nats, of the unchanged model's answer
        pa.field("num_tokens", pa.int32(), nullable=False),  # of that answer
    ]
)


def forms_of_prompts(rows: pa.Table, *, forms: Sequence[str]) -> pa.Table:
    """Units of work: every form on every test prompt."""
    tests = rows.filter(pc.equal(rows["part"], "test"))
    made = [tests.append_column("form", pa.array([form] * tests.num_rows, pa.string())) for form in forms]
    units = pa.concat_tables(made)
    return units.append_column(ROW_ID, MEASURED_IDS(units))


async def measure(row: dict[str, Any], ask: ProbeConversation, *, config: Config) -> dict[str, Any]:
    """A row of the MEASURED schema. Raises DropRow."""
    messages, form = row["messages"], row["form"]
    change = AS_IS if form == UNCHANGED else form
    text, _ = await ask.answer(messages, change, config.max_tokens)
    _, before = await ask.answer(messages, AS_IS, config.max_tokens)
    first = await ask.first_logprobs(messages, change)
    gap = kl(await ask.first_logprobs(messages, ABLATED), first) if form == WEIGHTS else None
    return {
        **{name: row[name] for name in ("form", "prompt_id", "side", "category")},
        "response": text,
        "refused": read(text).refusal,
        "first_token_kl": kl(await ask.first_logprobs(messages, AS_IS), first),
        "gap_kl": gap,
        "log_likelihood": await ask.likelihood(messages, before, change) if before else 0.0,
        "num_tokens": len(before),
    }


def summarise(measured: Artifact) -> tuple[FormFigures, ...]:
    """Each form's figures, the unchanged model's first."""
    return summarise_rows(list(measured.rows()))


def summarise_rows(rows: Sequence[dict[str, Any]]) -> tuple[FormFigures, ...]:
    """The same of rows of the MEASURED schema."""
    forms = sorted({row["form"] for row in rows}, key=lambda form: (form != UNCHANGED, form))
    return tuple(_figures(form, rows) for form in forms)


def _figures(form: str, rows: Sequence[dict[str, Any]]) -> FormFigures:
    mine = [row for row in rows if row["form"] == form]
    by_side = {side: [row for row in mine if row["side"] == side] for side in (HARMFUL, HARMLESS)}
    before = {row["prompt_id"]: row for row in rows if row["form"] == UNCHANGED and row["side"] == HARMLESS}
    harmless = by_side[HARMLESS]
    refusals = {side: [row["refused"] for row in own] for side, own in by_side.items()}
    per_token = {row["prompt_id"]: row["log_likelihood"] / row["num_tokens"] for row in harmless if row["num_tokens"]}
    as_is = {key: row["log_likelihood"] / row["num_tokens"] for key, row in before.items() if row["num_tokens"]}
    gaps = [row["gap_kl"] for row in harmless if row["gap_kl"] is not None]
    kls = [row["first_token_kl"] for row in harmless]
    return FormFigures(
        form=form,
        refuses_harmful=rate(sum(refusals[HARMFUL]), len(refusals[HARMFUL])),
        refuses_harmless=rate(sum(refusals[HARMLESS]), len(refusals[HARMLESS])),
        first_token_kl=clustered_mean(kls, range(len(kls))),
        nats_per_token=clustered_mean([-value for value in per_token.values()], list(per_token)),
        nats_per_token_more=paired_difference(
            {key: -value for key, value in as_is.items()}, {key: -value for key, value in per_token.items()}
        ),
        gap_kl=clustered_mean(gaps, range(len(gaps))),
    )


def summary_of(artifact: Artifact, found: dict[str, Any]) -> AbliterationSummary:
    """Of the stage's rows, and what it found on the way."""
    manifest = artifact.manifest
    return AbliterationSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        forms=summarise(artifact),
        duration_s=manifest.duration_s,
        **found,
    )
