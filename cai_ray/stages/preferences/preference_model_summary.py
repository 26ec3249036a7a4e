"""How good the preference model is: `<run>/train_preference_model/summary.json` and the table at the end of a run.

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
from cai_ray.config import Config
from cai_ray.engines.models.scoring import CONFIG_KEY
from cai_ray.metrics.calibration import Calibration, pair_calibration, sigmoid
from cai_ray.metrics.intervals import Estimate, clustered_rate
from cai_ray.rows import EVAL_SCORES

SUMMARY = "summary.json"
MODEL_CONFIG = "model/config.json"


class SourceScores(Config):
    """The model on the evaluation pairs of one source.

    Attributes:
        accuracy: share of pairs whose chosen answer scores higher; 95% interval over prompts. A tie is no hit.
        calibration: P(chosen) = sigmoid(score difference) against the label's probability, over confidence in [0.5, 1].
    """

    num_pairs: int
    accuracy: Estimate
    calibration: Calibration


def source_scores(rows: list[dict[str, Any]]) -> SourceScores | None:
    """Over rows of EVAL_SCORE; None without rows."""
    margins = [row["score_chosen"] - row["score_rejected"] for row in rows]
    accuracy = clustered_rate([margin > 0 for margin in margins], [row["prompt_id"] for row in rows])
    calibration = pair_calibration([sigmoid(margin) for margin in margins], [row["prob_chosen"] for row in rows])
    if accuracy is None or calibration is None:
        return None
    return SourceScores(num_pairs=len(rows), accuracy=accuracy, calibration=calibration)


def summarise(artifact: Artifact) -> dict[str, Any]:
    """Write `summary.json` beside the stage's manifest and return it."""
    manifest = artifact.manifest
    rows = pq.read_table(io.BytesIO(artifact.folder.read(EVAL_SCORES))).to_pylist()
    sources = {
        source: found.model_dump(mode="json")
        for source in ("ai", "human")
        if (found := source_scores([row for row in rows if row["label_source"] == source])) is not None
    }
    model = json.loads(artifact.folder.read(MODEL_CONFIG))
    summary = {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_dropped": manifest.rows_dropped,
        "targets": manifest.config["targets"],
        "sources": sources,
        "scores": model[CONFIG_KEY],
        "duration_s": manifest.duration_s,
    }
    artifact.folder.write(SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def read_summary(artifact: Artifact) -> dict[str, Any]:
    """The summary, written now if a crash came between the manifest and it."""
    return artifact.written(SUMMARY, summarise)


def table(summary: dict[str, Any]) -> Table | None:
    """Accuracy and calibration per source, for the terminal; None without evaluation pairs."""
    if not summary["sources"]:
        return None
    shown = Table(title="Preference model on evaluation pairs (95% intervals over prompts)")
    for name in ("labels", "pairs", "accuracy", "ECE", "Brier"):
        shown.add_column(name, justify="left" if name == "labels" else "right")
    for source, found in summary["sources"].items():
        accuracy, calibration = found["accuracy"], found["calibration"]
        shown.add_row(
            source,
            f"{found['num_pairs']:,}",
            f"{accuracy['value']:6.1%}  [{accuracy['low']:.1%}, {accuracy['high']:.1%}]",
            f"{calibration['ece']:.3f}",
            f"{calibration['brier']:.3f}",
        )
    return shown
