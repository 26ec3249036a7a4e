"""Where each stage of a run stands, and what it has spent, from the files alone.

Tested in tests/pipeline/test_run.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from cai_ray.artifacts.artifact import PLAN
from cai_ray.artifacts.spending import Found, found_in, spent
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.run import folder_of
from cai_ray.pipeline.steps import steps


class StageStatus(Config):
    """One line of `cai-ray status`."""

    stage: str
    state: Literal["finished", "unfinished", "not started"]
    rows_in: int | None  # known when finished
    rows_out: int
    rows_dropped: dict[str, int]
    rows_left_out: dict[str, int] = Field(default_factory=dict)
    duration_s: float | None = None
    tokens: int = 0  # of requests whose rows are committed, prompt and answer
    dollars: float = 0.0  # that they cost, where their server has a price


def status(recipe: Recipe) -> list[StageStatus]:
    """Every stage of the recipe, in order; starts nothing."""
    found = []
    for step in steps(recipe):
        folder = folder_of(recipe) / step.stage
        rows = found_in(folder)
        so_far = spent(folder, rows)
        one = _stage_status(folder, step.stage, rows)
        found.append(one.model_copy(update={"tokens": so_far.tokens, "dollars": so_far.dollars}))
    return found


def _stage_status(folder: Storage, stage: str, rows: Found) -> StageStatus:
    if rows.artifact is not None:
        manifest = rows.artifact.manifest
        return StageStatus(
            stage=stage,
            state="finished",
            rows_in=manifest.rows_in,
            rows_out=manifest.rows_out,
            rows_dropped=manifest.rows_dropped,
            rows_left_out=manifest.rows_left_out,
            duration_s=manifest.duration_s,
        )
    if not folder.exists(PLAN):
        return StageStatus(stage=stage, state="not started", rows_in=None, rows_out=0, rows_dropped={})
    records = rows.parts
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for record in records:
        dropped.update(record.dropped_by_reason)
        left_out.update(record.left_out_by_reason)
    return StageStatus(
        stage=stage,
        state="unfinished",
        rows_in=None,
        rows_out=sum(record.num_rows for record in records),
        rows_dropped=dict(dropped),
        rows_left_out=dict(left_out),
    )
