"""A study's report: one page with figure and table, the same as Markdown and JSON, and the figure as SVG.

Tested in tests/pipeline/studies/test_figures.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from cai_ray.metrics.intervals import Estimate
from cai_ray.pipeline.studies.figures import Line, StudyFigures
from cai_ray.stages.cells import cell, points
from cai_ray.stages.report.charts import Axis, Row, RowChart, Value, percent, row_chart
from cai_ray.stages.report.render import as_study_html, as_svg

STEPS = ("answer", "revision")
COLUMNS = (
    "model", "form", "format", "principles", "harm", "n", "before", "after", "safer", "worse", "same", "precision",
    "recall", "over-caution before", "over-caution after",
)  # fmt: skip
CATEGORY_COLUMNS = ("model", "form", "harm", "category", "n", *STEPS)


def write_page(folder: Path, figures: StudyFigures) -> list[Path]:
    """report.html, report.md, study.json and figure.svg in the study's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = charts_of(figures)
    tables = {
        "Every cell": [[*COLUMNS], *table_rows(figures)],
        **({"Holes": [["model", "form", "why"], *hole_rows(figures)]} if figures.holes else {}),
        "Harm by category": [[*CATEGORY_COLUMNS], *category_rows(figures)],
    }
    texts = {
        "report.html": as_study_html(figures, charts, tables),
        "report.md": as_markdown(figures, tables),
        "study.json": figures.model_dump_json(indent=2) + "\n",
        "figure.svg": as_svg(charts),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def table_rows(figures: StudyFigures) -> list[list[str]]:
    """A row of COLUMNS per line."""
    rows = []
    for line in figures.lines:
        found = line.figures
        shares = (
            found.harmful_before, found.harmful_after, found.made_safer, found.made_worse, found.unchanged,
            found.detection_precision, found.detection_recall, found.over_caution_before, found.over_caution_after,
        )  # fmt: skip
        names = [*_where(line), line.harm, str(found.num)]
        rows.append([*names, *(cell(share) for share in shares)])
    return rows


def hole_rows(figures: StudyFigures) -> list[list[str]]:
    """Model, form and reason of what has no rows."""
    return [[*where.split(", "), why] for where, why in figures.holes.items()]


def category_rows(figures: StudyFigures) -> list[list[str]]:
    """The paper's table: a row of CATEGORY_COLUMNS per model, form and category, each in its first format."""
    return [
        [line.model, line.form, line.harm, category, str(steps[0].n if steps[0] else 0), *map(cell, steps)]
        for line in _first_lines(figures)
        for category, steps in line.figures.categories.items()
    ]


def charts_of(figures: StudyFigures) -> list[RowChart]:
    """The paper's figure: harmful rate by category before and after, a chart per model and form in its first format."""
    made = []
    for line in _first_lines(figures):
        rows = [
            Row(category, [_value(slot, category, one) for slot, one in enumerate(steps) if one is not None])
            for category, steps in line.figures.categories.items()
        ]
        overall = (line.figures.harmful_before, line.figures.harmful_after)
        rows.append(Row("all", [_value(slot, "all", one) for slot, one in enumerate(overall) if one is not None]))
        axis = Axis(f"{line.harm}, share of answers (95%)", percent, (0.0, 1.0))
        chart = row_chart(f"{line.model}, {line.form}", axis, rows, note=f"{line.format}, {line.principles} principles")
        made += [chart] if chart else []
    return made


def _first_lines(figures: StudyFigures) -> list[Line]:
    first: dict[tuple[str, str], Line] = {}
    for line in figures.lines:
        first.setdefault((line.model, line.form), line)
    return list(first.values())


def _value(slot: int, category: str, found: Estimate) -> Value:
    title = f"{category}, {STEPS[slot]}: {cell(found)}, n = {found.n}"
    return Value(slot, STEPS[slot], found.value, found.low, found.high, title)


def as_markdown(figures: StudyFigures, tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """The tables as text: those of the page, and the rest."""
    parts = [f"# {figures.name}", ""]
    for title, (head, *rows) in tables.items():
        parts += [f"## {title}", "", _markdown(head, rows), ""]
    parts += ["## Comparisons, paired by prompt", ""]
    compared = [
        [one.name, cell(one.difference, points), _p(one.p), _p(one.p_corrected)]
        for one in figures.comparisons
        if one.difference is not None
    ]
    parts.append(_markdown(("what", "points (95%)", "p", "p, Holm"), compared))
    drawn = [
        [
            *_where(line),
            str(line.figures.num_principles),
            f"{line.figures.principle_entropy:.2f}",
            f"{line.figures.most_drawn_share:.0%}",
        ]
        for line in figures.lines
    ]
    names = ("model", "form", "format", "principles", "drawn", "entropy, bits", "most drawn")
    parts += ["", "## Principles", "", _markdown(names, drawn), "", "## Directions", ""]
    forms = [
        [
            model,
            f"{found.layer}/{found.position}",
            one.form,
            *map(cell, (one.refuses_harmful, one.refuses_harmless)),
            cell(one.first_token_kl, "{:.3f}".format),
            cell(one.nats_per_token_more, "{:+.3f}".format),
        ]
        for model, found in figures.directions.items()
        for one in found.forms
    ]
    names = ("model", "layer/position", "form", "refuses harmful", "refuses harmless", "first-token KL", "nats/token")
    parts.append(_markdown(names, forms))
    return "\n".join(parts) + "\n"


def _where(line: Line) -> list[str]:
    return [line.model, line.form, line.format, line.principles]


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.3g}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    plain = ([text.replace("|", "/").replace("\n", " ") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in plain)


def shown_table(figures: StudyFigures) -> Table:
    """For the terminal: harm before and after, and what was noticed."""
    made = Table(title=figures.name, box=None, padding=(0, 1, 0, 0))
    for name in ("cell", "before", "after", "recall"):
        made.add_column(name, justify="left" if name == "cell" else "right")
    for line in figures.lines:
        found = line.figures
        name = f"{line.model} {line.form} {line.format} {line.principles}"
        made.add_row(name, *map(cell, (found.harmful_before, found.harmful_after, found.detection_recall)))
    return made
