"""Labels and preference model: the report's numbers are those of their summaries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries import summary as summary_file
from cai_ray.artifacts.summaries.labels import LabelSummary, OracleSummary, PrincipleSummary
from cai_ray.metrics.intervals import Estimate
from cai_ray.rows import PREFERENCE
from cai_ray.stages.report import write_report
from cai_ray.stages.report.drawings import calibration_chart, label_chart
from cai_ray.stages.report.preferences import labels_of, preference_model_of
from cai_ray.stages.report.source import RunSource
from tests.stages.report.report_runs import commit, write_preference_model


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, n=40)


LABELS = LabelSummary(
    rows_in=50,
    rows_out=48,
    rows_dropped={"tie": 2},
    order_flip_rate=estimate(0.31),
    extremity=estimate(0.41),
    position_bias=estimate(-0.02),
    principle_agreement=estimate(0.61),
    principles=(
        PrincipleSummary(
            principle_id="theft",
            num_pairs=17,
            order_flip_rate=estimate(0.22),
            extremity=None,
            position_bias=None,
            label_agreement=estimate(0.83),
            oracle_agreement=estimate(0.94),
        ),
    ),
    oracle={
        name: OracleSummary(num_decided=40, agreement=agreement, brier=None, overconfidence=None, calibration=None)
        for name, agreement in (("label", estimate(0.9)), ("one reading", estimate(0.7)), ("all samples", None))
    },
    counters={},
    duration_s=1.0,
)


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def test_labels_are_those_of_the_summary(run: Storage) -> None:
    commit(run, "label_comparisons", [], PREFERENCE, "pair_id")
    summary_file.write(run / "label_comparisons", LABELS)
    found = labels_of(RunSource(run))
    assert found is not None and found.num_pairs == 48
    assert [one.found.value for one in found.estimates.values()] == [0.31, 0.41, -0.02, 0.61]
    chart = label_chart(found)
    assert chart is not None
    assert [(row.label, row.text) for row in chart.rows] == [("label", "90.0%"), ("one reading", "70.0%")]
    html = write_report.build(run, ("label_comparisons",), write_report.Config()).html
    assert "<b>-2.0%</b><br><small>[-7.0%, 3.0%]</small>" in html  # a bias has two ends
    (row,) = re.findall(r"<tr><td>theft</td>.*?</tr>", html, re.DOTALL)
    cells = [re.sub(r"<.*?>", "", one).split() for one in re.findall(r'<td class="number">(.*?)</td>', row)]
    assert [one[0] for one in cells] == ["17", "22.0%", "83.0%", "94.0%"]


def test_the_preference_model_is_that_of_the_summary(run: Storage) -> None:
    write_preference_model(run)
    (found,) = preference_model_of(RunSource(run))
    assert found.source == "ai" and found.num_pairs == 80 == sum(one.num for one in found.bins)
    chart = calibration_chart([found])
    assert chart is not None and len(chart.traces[0].marks) == len(found.bins)


def test_without_summaries_there_is_nothing(run: Storage) -> None:
    run.make()
    source = RunSource(run)
    assert labels_of(source) is None and preference_model_of(source) == [] and source.problems == []
