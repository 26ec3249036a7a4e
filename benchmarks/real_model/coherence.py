"""How coherent the model is: log-probability per token of answers, critiques and revisions, by how it is sampled.

At temperature 1, and as its makers sample it; per round, on the same conversations, and the share of texts under the
cut of the gate `incoherent`. Log-probabilities are at temperature 1 before any cut, whichever way it was sampled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.real_model.recipe_run import MAKERS, conversations, finished_run, sampled
from cai_ray.quality.gates import GatesConfig

NUM_ROWS = 48
SAMPLED = {"temperature 1": {"temperature": 1.0}, "the makers'": MAKERS}


def sections(how: dict[str, float], scale: float) -> dict[str, Any]:
    return {
        "prompts": {"sources": [conversations(max(4, round(NUM_ROWS * scale)))], "test_fraction": 0},
        "revise": {
            "num_revisions": 2,
            **sampled(how),
            "gates": {"incoherent": "flag"},
            "scaling": {"rows_per_task": 16, "rows_per_part": 64},
        },
    }


def run(scale: float, folder: Path) -> None:
    """`scale`: of the conversations."""
    found = {}
    for name, how in SAMPLED.items():
        done = finished_run("coherence", sections(how, scale))
        found[name] = json.loads((done / "revise").read("summary.json"))["logprobs"]
    figures = {"scale": scale, "rows": NUM_ROWS, "cut": GatesConfig().incoherent_below, "sampled": found}
    claim = "SmolLM2-135M-Instruct writes what it finds likely as its makers sample it, and word salad at temperature 1"
    command = "python -m benchmarks.real_model coherence"
    results_file.write("real_coherence", claim, figures, [0], folder, command)
