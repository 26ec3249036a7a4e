"""Multiple choice: the 438 comparisons of helpful, honest and harmless answers, asked of the model as it is.

Always (A) scores 52.1%, the longer option 56.4%; intervals are over conversations.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import results_file
from benchmarks.real_model.recipe_run import QUESTIONS, finished_run, there

NUM_ITEMS = 438


def run(scale: float, folder: Path) -> None:
    """`scale`: share of the questions, at most 1."""
    limit = None if scale >= 1 else max(8, round(NUM_ITEMS * scale))
    done = finished_run("questions", {"multiple_choice": {"path": there(QUESTIONS), "limit": limit}})
    summary = json.loads((done / "multiple_choice").read("summary.json"))
    claim = "SmolLM2-135M-Instruct on the 438 comparisons, by the log-probability of its options"
    figures = {"scale": scale, **{key: summary[key] for key in ("num_items", "num_clusters", "baselines", "models")}}
    command = "python -m benchmarks.real_model questions"
    results_file.write("real_questions", claim, figures, [0], folder, command)
