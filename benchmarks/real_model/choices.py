"""Multiple choice of helpful, honest and harmless answers: the model as it is, and what the pipeline made of it.

The 438 comparisons of Bai et al. 2022 and those of BIG-bench. Asked for an option: base, SL-CAI and RL-CAI of the part
`data`. Scoring both answers: the preference model of AI labels of `data`, and that of people's choices of
`preference_model`. Both parts are run first where they are not. Of the 438, always (A) scores 52.1% and the longer
option 56.4%; intervals are over conversations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.real_model import big_bench, data, training
from benchmarks.real_model.recipe_run import QUESTIONS, finished_run, there

NUM_ITEMS = 438
ASKED = {"sl_cai": "train_sft", "rl_cai": "train_ppo"}
SCORING = ("ai_preferences", "people")


def section(path: Path, scale: float) -> dict[str, Any]:
    """The recipe's; `scale`: share of the questions, at most 1."""
    limit = None if scale >= 1 else max(8, round(NUM_ITEMS * scale))
    asked = ["policy", *ASKED]
    return {
        "multiple_choice": {"path": there(path), "models": asked, "preference_models": list(SCORING), "limit": limit}
    }


def run(scale: float, folder: Path) -> None:
    """`scale`: of the questions, and of what the models are trained on."""
    trained = finished_run("pipeline", data.sections(scale))
    models = {name: (trained / stage / "model").path() for name, stage in ASKED.items()}
    models["ai_preferences"] = (trained / "train_preference_model" / "model").path()
    models["people"] = training.model_of("preference_model", scale)
    found = {}
    for name, path in (("the_438", QUESTIONS), ("big_bench", big_bench.questions())):
        done = finished_run(name, section(path, scale), others=models)
        summary = json.loads((done / "multiple_choice").read("summary.json"))
        found[name] = {key: summary[key] for key in ("num_items", "num_clusters", "baselines", "models")}
    claim = "SmolLM2-135M-Instruct before and after, and two preference models, on comparisons of three kinds of good"
    command = "python -m benchmarks.real_model choices"
    results_file.write("real_choices", claim, {"scale": scale, **found}, [0], folder, command)
