"""How good the preference model is: the stage's summary, and the table at the end of a run.

On the evaluation pairs, each source by itself: how often the model ranks a pair as its label does, and whether its
probabilities mean what they say.

Tested in tests/stages/preferences/test_train_preference_model.py.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.preference_model import PreferenceModelSummary, ScoreFacts, SourceScores
from cai_ray.engines.models.reading import CONFIG_KEY
from cai_ray.metrics.calibration import pair_calibration, sigmoid
from cai_ray.metrics.intervals import clustered_rate
from cai_ray.rows import EVAL_SCORES
from cai_ray.stages.cells import cell

MODEL_CONFIG = "model/config.json"


def source_scores(rows: list[dict[str, Any]]) -> SourceScores | None:
    """Over rows of EVAL_SCORE; None without rows."""
    margins = [row["score_chosen"] - row["score_rejected"] for row in rows]
    accuracy = clustered_rate([margin > 0 for margin in margins], [row["prompt_id"] for row in rows])
    calibration = pair_calibration([sigmoid(margin) for margin in margins], [row["prob_chosen"] for row in rows])
    if accuracy is None or calibration is None:
        return None
    return SourceScores(num_pairs=len(rows), accuracy=accuracy, calibration=calibration)


def summarise(artifact: Artifact) -> PreferenceModelSummary:
    """Score the model on its evaluation pairs."""
    manifest = artifact.manifest
    rows = pq.read_table(io.BytesIO(artifact.folder.read(EVAL_SCORES))).to_pylist()
    sources = {
        source: found
        for source in ("ai", "human")
        if (found := source_scores([row for row in rows if row["label_source"] == source])) is not None
    }
    model = json.loads(artifact.folder.read(MODEL_CONFIG))
    return PreferenceModelSummary(
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rows_dropped=manifest.rows_dropped,
        rows_left_out=manifest.rows_left_out,
        targets=manifest.config["targets"],
        sources=sources,
        scores=ScoreFacts.model_validate(model[CONFIG_KEY]),
        duration_s=manifest.duration_s,
    )


def table(summary: PreferenceModelSummary) -> Table | None:
    """Accuracy and calibration per source, for the terminal; None without evaluation pairs."""
    if not summary.sources:
        return None
    shown = Table(title="Preference model on evaluation pairs (95% intervals)")
    for name in ("labels", "pairs", "accuracy", "ECE", "Brier"):
        shown.add_column(name, justify="left" if name == "labels" else "right")
    for source, found in summary.sources.items():
        calibration = found.calibration
        shown.add_row(
            source,
            f"{found.num_pairs:,}",
            cell(found.accuracy),
            f"{calibration.ece:.3f}",
            f"{calibration.brier:.3f}",
        )
    return shown
