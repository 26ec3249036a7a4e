"""What a study will take: its cells' plans, one after the other.

Tested in tests/pipeline/studies/test_study.py.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.table import Table

from cai_ray.pipeline.studies.study import MADE, Cell, Study, cells_of
from cai_ray.planning.devices import Hardware
from cai_ray.planning.plan import plan
from cai_ray.planning.work import Memory


class CellPlan(NamedTuple):
    """One run of a study on the hardware."""

    model: str
    form: str
    rows: float  # exchanges, or measured prompts
    seconds: float
    memory: Memory | None  # of the fullest stage


def plan_study(study: Study, hardware: Hardware) -> list[CellPlan]:
    """Of every cell. A form that is yet to be made is planned as the model that it is made of. Raises ConfigError."""
    return [_planned(study, cell, hardware) for model in study.models for cell in cells_of(study, model)]


def _planned(study: Study, cell: Cell, hardware: Hardware) -> CellPlan:
    recipe = cell.recipe
    if cell.form in MADE:
        recipe = recipe.model_copy(update={"models": {**recipe.models, "policy": study.models[cell.model]}})
    made = [stage.planned for stage in plan(recipe, hardware, use_finished=False).stages]
    memories = [one.work.memory for one in made if one.work.memory is not None]
    fullest = max(memories, key=lambda memory: memory.needed_gib / memory.have_gib, default=None)
    seconds = sum(one.work.seconds for one in made)
    return CellPlan(cell.model, cell.form, made[-1].rows_out, seconds, fullest)


def table_of(plans: list[CellPlan], price: float | None) -> Table:
    """For the terminal; `price`: dollars per device and hour."""
    made = Table(title="A study, cell by cell", box=None, padding=(0, 1, 0, 0))
    for name in ("model", "form", "rows", "hours", "memory, GiB", *(["dollars"] if price else [])):
        made.add_column(name, justify="left" if name in ("model", "form") else "right")
    total = CellPlan("in all", "", sum(one.rows for one in plans), sum(one.seconds for one in plans), None)
    for one in [*plans, total]:
        memory = "" if one.memory is None else f"{one.memory.needed_gib:,.1f} of {one.memory.have_gib:,.1f}"
        dollars = [f"{one.seconds / 3600 * price:,.2f}"] if price else []
        made.add_row(one.model, one.form, f"{one.rows:,.0f}", f"{one.seconds / 3600:,.2f}", memory, *dollars)
    return made
