"""Rounds: the report's numbers are those of the summaries of revise and score_rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries import summary as summary_file
from cai_ray.artifacts.summaries.revision import RevisionSummary, TextLogprobs
from cai_ray.artifacts.summaries.rounds import RoundEstimates, RoundsSummary
from cai_ray.metrics.intervals import Estimate
from cai_ray.rows import SFT_EXAMPLE
from cai_ray.stages.report import write_report as report
from cai_ray.stages.report.drawings import round_charts
from cai_ray.stages.report.rounds import rounds_of
from cai_ray.stages.report.source import RunSource
from tests.stages.report.report_runs import commit


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, n=40)


HARM = (estimate(0.9), estimate(0.2))
REVISED = RevisionSummary(
    rows_in=40,
    rows_out=39,
    rows_dropped={"too_long": 1},
    num_rounds={"1": 39},
    principles={"theft": 39},
    counters={},
    duration_s=1.0,
    harmful_rate=HARM,
    harmless_helpfulness=(estimate(0.8), estimate(0.7)),
    evasive_rate=(),
    meta_rate=(estimate(0.01), estimate(0.02)),
)
NOT_TOLD = dict.fromkeys(("harmful_rate", "harmless_helpfulness", "evasive_rate", "meta_rate"))
SCORED = RoundsSummary(
    rows_in=60,
    rows_out=60,
    rows_dropped={},
    num_dialogues=30,
    judge="preference_model",
    rounds=(
        RoundEstimates(round=0, preference_score=estimate(-0.5), harmful=estimate(0.6), helpful=None),
        RoundEstimates(round=1, preference_score=estimate(0.75), harmful=estimate(0.1), helpful=None),
    ),
    changes=(),
    duration_s=1.0,
)


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    made = Storage(str(tmp_path / "run"))
    for stage in ("revise", "score_rounds"):
        commit(made, stage, [], SFT_EXAMPLE, "example_id")
    return made


def test_the_oracle_s_numbers_come_first(run: Storage) -> None:
    summary_file.write(run / "revise", REVISED)
    summary_file.write(run / "score_rounds", SCORED)
    found = rounds_of(RunSource(run))
    assert found is not None
    assert found.shares == {"harmful": HARM, "helpful": REVISED.harmless_helpfulness, "meta": REVISED.meta_rate}
    assert found.scores == [estimate(-0.5), estimate(0.75)]
    assert (found.num_dialogues, found.num_rounds, found.principles) == (39, 1, {"theft": 39})
    assert found.share("harmful", 1) == HARM[1] and found.share("harmful", 2) is None
    shares, scores = round_charts(found)
    assert [trace.name for trace in shares.traces] == ["harmful answers", "helpfulness", "meta-commentary"]
    assert [mark.title for mark in shares.traces[0].marks] == ["round 0: 90.0%", "round 1: 20.0%"]
    assert [mark.title for mark in scores.traces[0].marks] == ["round 0: -0.5", "round 1: 0.75"]


def test_without_an_oracle_the_judge_s_numbers_are_shown(run: Storage) -> None:
    summary_file.write(run / "revise", REVISED.model_copy(update=NOT_TOLD))
    summary_file.write(run / "score_rounds", SCORED)
    found = rounds_of(RunSource(run))
    assert found is not None and found.shares == {"harmful": [estimate(0.6), estimate(0.1)]}


def test_one_of_the_two_is_enough_and_none_is_not(run: Storage) -> None:
    assert rounds_of(RunSource(run)) is None
    summary_file.write(run / "score_rounds", SCORED)
    found = rounds_of(RunSource(run))
    assert found is not None and (found.num_dialogues, found.principles) == (30, {})


def test_a_damaged_summary_is_told_and_the_other_is_shown(run: Storage) -> None:
    summary_file.write(run / "score_rounds", SCORED)
    (run / "revise").write("summary.json", b'{"rows_in": 40, "harm": []}')
    source = RunSource(run)
    found = rounds_of(source)
    assert found is not None and found.num_dialogues == 30
    assert source.problems == ["revise/summary.json cannot be read: rows_out: Field required"]


def test_how_likely_the_words_are_stands_beside_harm(run: Storage) -> None:
    def told(mean: float) -> TextLogprobs:
        return TextLogprobs(num_texts=39, num_tokens=1_200, mean=mean, incoherent_share=0.0)

    found = {"answer": told(-0.5), "critique 1": told(-0.75), "revision 1": told(-1.25)}
    for oracle in ({}, NOT_TOLD):
        summary_file.write(run / "revise", REVISED.model_copy(update={"logprobs": found, **oracle}))
        facts = rounds_of(RunSource(run))
        assert facts is not None and facts.num_rounds == 1
        assert [facts.told("revision", k) for k in (0, 1, 2)] == [
            "-0.50 (1,200 tokens)",
            "-1.25 (1,200 tokens)",
            "-",
        ]
        assert [facts.told("critique", k) for k in (0, 1)] == ["-", "-0.75 (1,200 tokens)"]
        page = report.build(run, ["revise", "score_rounds"], report.Config())
        for text in (page.markdown, page.html):
            assert "its critique, nats per token" in text and "-1.25 (1,200 tokens)" in text
        assert '"num_tokens": 1200' in page.json
        assert ("Nobody judged the revised dialogues" in page.html) == bool(oracle)
