"""Multiple choice: the 438 comparisons of helpful, honest and harmless answers, asked of the model as it is.

The recipe of one stage, run by `cai-ray run`, which goes on where it was ended. Always (A) scores 52.1%, the longer
option 56.4%; intervals are over conversations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks import results_file
from benchmarks.real_model.weights import model_folder
from cai_ray.engines.models.files import cache_root
from cai_ray.errors import ConfigError

FILE = Path(__file__).parents[3] / "shared" / "data" / "cai_paper" / "438HHHEvaluations.jsonl"
NUM_ITEMS = 438


def recipe(model: str, limit: int | None, output: Path) -> dict[str, Any]:
    return {
        "name": f"questions-{limit or 'all'}",
        "output": str(output),
        "seed": 0,
        "models": {
            "policy": {
                "path": model,
                "dtype": "bfloat16",
                "max_model_len": 4096,
                "engine": {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "kv_cache_gib": 2},
            }
        },
        "multiple_choice": {"path": str(FILE), "models": ["policy"], "limit": limit},
    }


def run(scale: float, folder: Path) -> None:
    """`scale`: share of the questions, at most 1."""
    if not FILE.is_file():
        raise ConfigError(f"the questions are not there: {FILE}; put the paper's 438HHHEvaluations.jsonl there")
    output = cache_root() / "benchmarks" / "real_model"
    output.mkdir(parents=True, exist_ok=True)
    made = recipe(model_folder(), None if scale >= 1 else max(8, round(NUM_ITEMS * scale)), output)
    file = output / f"{made['name']}.yaml"
    file.write_text(yaml.safe_dump(made))
    subprocess.run([sys.executable, "-m", "cai_ray.cli", "run", str(file)], check=True)
    summary = json.loads((output / made["name"] / "multiple_choice" / "summary.json").read_text())
    claim = "SmolLM2-135M-Instruct on the 438 comparisons, by the log-probability of its options"
    figures = {"scale": scale, **{key: summary[key] for key in ("num_items", "num_clusters", "baselines", "models")}}
    command = "python -m benchmarks.real_model questions"
    results_file.write("real_questions", claim, figures, [0], folder, command)
