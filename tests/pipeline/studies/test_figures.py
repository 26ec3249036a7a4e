"""A study's figures from the rows of its cells, and the page that shows them."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import StageSpec
from cai_ray.artifacts.derived import Outcome, derive
from cai_ray.pipeline.run import folder_of
from cai_ray.pipeline.studies.figures import figures_of
from cai_ray.pipeline.studies.page import category_rows, charts_of, hole_rows, shown_table, table_rows, write_page
from cai_ray.pipeline.studies.study import Study, cells_of
from cai_ray.stages.evaluation.self_critique import EXCHANGE, EXCHANGE_IDS, STAGE, exchange_id
from tests.chromium import MISSING, chromium, installed
from tests.pipeline.studies.test_study import study

SCRIPT = Path(__file__).parents[3] / "docs" / "study_figures.py"


def row(k: int, before: float, after: float, form: str = "plain", kind: str = "red_team") -> dict[str, Any]:
    metric = "harmful" if kind == "red_team" else "over_refusal"
    scores = {name: [{"metric": metric, "value": v, "judge": None}] for name, v in (("i", before), ("r", after))}
    return {
        "prompt_id": f"p{k}", "format": form, "principles": "random", "sample_index": 0, "kind": kind,
        "category": "theft" if k % 2 else "fraud", "messages": [{"role": "user", "content": "x"}],
        "principle_id": f"q{k % 3}", "initial": "a", "critique": "b", "revision": "c", "finish_reasons": ["stop"] * 3,
        "noticed": bool(before), "unchanged": False, "initial_scores": scores["i"], "revision_scores": scores["r"],
    }  # fmt: skip


def finished(made: Study, model: str, form: str, rows: list[dict[str, Any]]) -> None:
    (cell,) = (cell for cell in cells_of(made, model) if cell.form == form)
    folder = folder_of(cell.recipe) / STAGE
    spec = StageSpec(folder=folder, stage=STAGE, fingerprint="f", config={}, inputs={}, row_ids=EXCHANGE_IDS)
    derive(spec, [[Outcome(exchange_id(one), one) for one in rows]], EXCHANGE)


def two_cells(folder: Path) -> Study:
    made = study(folder, forms=["as_is", "ablated"])
    finished(made, "one", "as_is", [row(k, 0.0, 0.0, f) for k in range(12) for f in ("plain", "fresh")])
    ablated = [row(k, 1.0, float(k < 3), f) for k in range(12) for f in ("plain", "fresh")]
    finished(made, "one", "ablated", [*ablated, row(20, 1.0, 0.0, kind="helpful")])
    return made


def test_figures_comparisons_and_holes(tmp_path: Path) -> None:
    found = figures_of(two_cells(tmp_path), {("two", "ablated"): "exit code 2: no direction"})
    assert [(one.form, one.format) for one in found.lines] == [
        ("as_is", "plain"), ("as_is", "fresh"), ("ablated", "plain"), ("ablated", "fresh"),
    ]  # fmt: skip
    plain = found.lines[2].figures
    assert plain.harmful_before and plain.harmful_before.value == 1.0
    assert plain.harmful_after and plain.harmful_after.value == 0.25
    assert plain.over_caution_before and plain.over_caution_before.value == 1.0
    assert found.holes == {"two, ablated": "exit code 2: no direction", "two, as_is": "not run"}
    by_name = {one.name: one for one in found.comparisons}
    against = by_name["one, as_is, plain, random: ablated less as_is, answer"]
    assert against.difference and against.difference.value == 1.0
    revised = by_name["one, ablated, plain, random: revision less answer"]
    assert revised.p is not None and revised.p_corrected is not None and revised.p <= revised.p_corrected < 0.05
    assert "one, as_is, plain, random: fresh less plain, answer" in by_name


def test_the_page_holds_figure_table_and_holes(tmp_path: Path) -> None:
    found = figures_of(two_cells(tmp_path), {})
    files = {file.name: file.read_text() for file in write_page(tmp_path / "s", found)}
    assert set(files) == {"report.html", "report.md", "study.json", "figure.svg"}
    svg = ElementTree.fromstring(files["figure.svg"])
    assert len(svg.findall(".//{*}circle")) == 2 + 2 * 2 * 3  # the legend; two charts, two steps, theft, fraud and all
    assert len(charts_of(found)) == 2 and len(table_rows(found)) == 4
    assert hole_rows(found) == [["two", "as_is", "not run"], ["two", "ablated", "not run"]]
    assert [row[:5] for row in category_rows(found)][2:] == [
        ["one", "ablated", "harmful", "fraud", "6"], ["one", "ablated", "harmful", "theft", "6"],
    ]  # fmt: skip
    for text in ("100% [", "Holes", "not run", "ablated less as_is", "Harm by category"):
        assert text in files["report.md"] and text in files["report.html"]
    assert shown_table(found).row_count == 4


@pytest.mark.slow
@pytest.mark.skipif(installed() is None, reason=MISSING)
def test_the_page_is_no_broader_than_its_window_and_its_charts_stand_side_by_side(tmp_path: Path) -> None:
    write_page(tmp_path / "s", figures_of(two_cells(tmp_path), {("two", "ablated"): "exit code 2: no direction"}))
    with chromium(tmp_path / "profile") as page:
        for width in (1280, 390):
            page.resize(width)
            page.open(tmp_path / "s" / "report.html")
            assert page.value("document.documentElement.scrollWidth") == width
            assert max(page.value("[...document.querySelectorAll('figure')].map(one => one.offsetWidth)")) < 600
        assert not page.complaints


def test_ten_lines_recompute_the_rates(tmp_path: Path) -> None:
    two_cells(tmp_path)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "runs" / "s"), "harmful"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rates = [line.split()[-2:] for line in said.splitlines() if " random " in line]
    assert rates == [["1.0", "0.25"], ["1.0", "0.25"], ["0.0", "0.00"], ["0.0", "0.00"]]
