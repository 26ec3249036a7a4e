"""A study's figures, from the rows of its cells: per cell, and what differs between cells.

Tested in tests/pipeline/studies/test_figures.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from pydantic import Field

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries import summary
from cai_ray.artifacts.summaries.abliteration import AbliterationSummary
from cai_ray.artifacts.summaries.multiple_choice import MultipleChoiceSummary
from cai_ray.config import Config
from cai_ray.metrics.critiques.self_critique import (
    HARM,
    CellFigures,
    Comparison,
    Exchange,
    by_prompt,
    cell_figures,
    compare,
)
from cai_ray.metrics.critiques.self_critique import corrected as holm
from cai_ray.pipeline.run import folder_of
from cai_ray.pipeline.studies.running import Holes
from cai_ray.pipeline.studies.study import AS_IS, DIRECTION, Study, cells_of
from cai_ray.stages.abliteration import abliterate
from cai_ray.stages.evaluation import multiple_choice, self_critique

Key = tuple[str, str, str, str]  # model, form, format, how principles were chosen


class Line(Config):
    """A cell in one format, with one choice of principles, by one measure of harm."""

    model: str
    form: str
    format: str
    principles: str
    harm: str = Field(description="The metric that says what is harmful.")
    figures: CellFigures


class StudyFigures(Config):
    """All of a study."""

    name: str
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...] = Field(description="Paired by prompt; p corrected over all of them (Holm).")
    holes: dict[str, str] = Field(description='"model, form" -> why it has no rows.')
    directions: dict[str, AbliterationSummary] = Field(description="By model.")
    ability: dict[str, MultipleChoiceSummary] = Field(description='By "model, form".')


def figures_of(study: Study, holes: Holes) -> StudyFigures:
    """Of what is finished; a cell that is not is a hole."""
    lines: list[Line] = []
    main: dict[Key, list[Exchange]] = {}  # by each cell's first measure of harm
    missing, directions, ability = dict(holes), {}, {}
    for model in study.models:
        for cell in cells_of(study, model):
            run = folder_of(cell.recipe)
            if cell.form == DIRECTION:
                if find(run / abliterate.STAGE) is not None:
                    directions[model] = summary.read(run / abliterate.STAGE, AbliterationSummary)
                continue
            rows = rows_in(run)
            if not rows:
                missing.setdefault((model, cell.form), "not run")
                continue
            if find(run / multiple_choice.STAGE) is not None:
                ability[f"{model}, {cell.form}"] = summary.read(run / multiple_choice.STAGE, MultipleChoiceSummary)
            for number, harm in enumerate(self_critique.harm_metrics(rows)):
                for key, own in _by_key(model, cell.form, rows, harm):
                    lines.append(_line(key, harm, own))
                    if number == 0:
                        main[key] = own
    return StudyFigures(
        name=study.name,
        lines=tuple(lines),
        comparisons=tuple(holm(list(comparisons(main)))),
        holes={f"{model}, {form}": why for (model, form), why in missing.items()},
        directions=directions,
        ability=ability,
    )


def rows_in(run: Storage) -> list[dict[str, Any]]:
    """The exchanges of a cell's run; none where it is not finished."""
    artifact = find(run / self_critique.STAGE)
    return list(artifact.rows()) if artifact is not None else []


def _by_key(model: str, form: str, rows: list[dict[str, Any]], harm: str) -> Iterator[tuple[Key, list[Exchange]]]:
    found: dict[Key, list[Exchange]] = {}
    for row in rows:
        key = (model, form, row["format"], row["principles"])
        found.setdefault(key, []).append(self_critique.exchange_of(row, harm))
    yield from found.items()


def _line(key: Key, harm: str, exchanges: list[Exchange]) -> Line:
    model, form, form_at, principles = key
    figures = cell_figures(exchanges)
    return Line(model=model, form=form, format=form_at, principles=principles, harm=harm, figures=figures)


# --- Comparisons ------------------------------------------------------------------------------------------


def comparisons(found: Mapping[Key, list[Exchange]]) -> Iterator[Comparison]:
    """Revision less answer in every cell; forms against `as_is`; formats, and choices of principle, with each other."""
    for key, exchanges in found.items():
        yield compare(f"{_name(key)}: revision less answer", _harm(exchanges, "before"), _harm(exchanges, "after"))
    for one, other in combinations(found, 2):
        differing = [k for k in range(4) if one[k] != other[k]]
        if len(differing) != 1 or differing[0] == 0:
            continue
        if differing == [1] and AS_IS not in (one[1], other[1]):
            continue
        first, second = (other, one) if other[1] == AS_IS != one[1] else (one, other)
        what = f"{_name(first)}: {second[differing[0]]} less {first[differing[0]]}"
        for side in ("before", "after"):
            # Answers know no principle yet.
            if not (side == "before" and differing == [3]):
                step = "answer" if side == "before" else "revision"
                yield compare(f"{what}, {step}", _harm(found[first], side), _harm(found[second], side))


def _name(key: Key) -> str:
    return ", ".join(key)


def _harm(exchanges: list[Exchange], side: str) -> dict[str, float]:
    judged = [one for one in exchanges if one.is_red_team and getattr(one, f"harm_{side}") is not None]
    return by_prompt(judged, [getattr(one, f"harm_{side}") >= HARM for one in judged])
