"""The summary of train_ppo: by hand on a few lines of metrics.jsonl, and its table."""

from __future__ import annotations

import json
from pathlib import Path

from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.ppo import PpoSummary, Refresh
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.metrics import training_keys as keys
from cai_ray.rows import SFT_EXAMPLE
from cai_ray.stages.ppo.summary import LINES, summarise, table
from tests.screen import check_fits, on_screen
from tests.stages.report.report_runs import commit

PLACES = {keys.ATTEMPT: 1, keys.ELAPSED_S: 1.0, keys.NUM_STEPS: 20}


def test_numbers_by_hand(tmp_path: Path) -> None:
    lines = [
        {**PLACES, keys.STEP: step, keys.SCORE: step / 10, keys.KL: None, keys.UPDATES_SKIPPED: float(step == 3)}
        for step in (1, 2, *range(2, 21))  # the second was done twice
    ]
    lines[2][keys.SCORE] = 0.5
    lines.append({**PLACES, keys.EVENT: "learner 0 was lost"})
    refresh = {keys.EVENT: "refresh 1", keys.STEP: 10, keys.REFRESH: 1, keys.REFRESH_PAIRS: 8}
    lines.append({keys.ATTEMPT: 1, keys.ELAPSED_S: 2.0, **refresh})
    run = Storage(str(tmp_path))
    artifact = commit(run, "train_ppo", [], SFT_EXAMPLE, "example_id")
    artifact.folder.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    summary = summary_of(artifact, PpoSummary, summarise)
    assert (summary.num_steps, summary.steps_compared, summary.updates_skipped) == (20, 2, 1.0)
    assert summary.first == {keys.SCORE: 0.3, keys.UPDATES_SKIPPED: 0.0} and summary.last[keys.SCORE] == 1.95
    assert summary.events == ("learner 0 was lost", "refresh 1")
    (found,) = summary.refreshes
    assert (found.refresh, found.step, found.figures) == (1, 10, {keys.REFRESH_PAIRS: 8})
    shown = on_screen(table(summary))
    assert "reward by preference model" in shown and "+0.300" in shown and "refresh 1, after step 10" in shown


def test_the_table_fits_80_columns() -> None:
    part = {line.metric: 12_345.678 for line in LINES}
    fits = {keys.refresh_fit("held_out", "accuracy", when): 0.1234 for when in ("before", "after")}
    refresh = Refresh(attempt=1, elapsed_s=1.0, event="x" * 300, step=1_000, refresh=12, **fits)
    summary = PpoSummary(
        rows_in=1,
        rows_out=1,
        rows_dropped={},
        num_steps=10_000,
        num_episodes=9_999_999,
        num_output_tokens=1,
        steps_compared=1_000,
        first=part,
        last=part,
        mean=part,
        updates_skipped=0,
        events=(),
        duration_s=1.0,
        refreshes=(refresh,),
    )
    check_fits(table(summary))
    assert "12.3%" in on_screen(table(summary))
