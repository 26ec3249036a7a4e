"""The revise stage against the same dialogues straight through AsyncLLM, and one by one through Hugging Face.

Each side runs in a process of its own, in turn, three times. Steady state: rows per second between the
moment the first 10% of the rows are done and the moment the last one is; engine start-up is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import results_file, revise_sides
from benchmarks.recipes import microworld_recipe
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline.recipe import Recipe

SEED = 0
NUM_ROWS = 768
NUM_HF_ROWS = 20
REPEATS = 3


def _recipe(folder: Path, num_rows: int) -> Recipe:
    return microworld_recipe(folder, "speed", ensure_model(), SEED, (f"prompts.num_prompts={num_rows}",))


def stage(folder: Path) -> float:
    """Rows/s of the stage itself: Ray Data, actor pool, parts committed to disk."""
    return revise_sides.stage(_recipe(folder, NUM_ROWS)).steady_rate()


def direct(folder: Path) -> float:
    """Rows/s of the same row coroutine on a bare AsyncLLM, no Ray, nothing written."""
    return revise_sides.direct(_recipe(folder, NUM_ROWS)).steady_rate()


def hugging_face(folder: Path) -> float:
    """Rows/s of a loop over the rows with transformers' generate()."""
    return revise_sides.hugging_face(_recipe(folder, NUM_HF_ROWS), 1).steady_rate()


SIDES = {"stage": stage, "direct": direct, "hugging_face": hugging_face}


def _in_own_process(side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.revise_speed", side]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["rows_per_s"])


def main() -> None:
    ensure_model()
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(REPEATS):
        for side in SIDES:
            rates[side].append(_in_own_process(side))
            print(f"round {repeat + 1}: {side} {rates[side][-1]:.2f} rows/s", flush=True)
    to_direct = [a / b for a, b in zip(rates["stage"], rates["direct"], strict=True)]
    to_loop = [a / b for a, b in zip(rates["stage"], rates["hugging_face"], strict=True)]
    figures = {
        "rows_per_s": {side: results_file.spread(values) for side, values in rates.items()},
        "stage_to_direct": results_file.spread(to_direct) | {"target": 0.85},
        "stage_to_hugging_face": results_file.spread(to_loop) | {"target": 5.0},
        "num_rows": NUM_ROWS,
        "rounds": 4,
    }
    claim = "The revise stage keeps >= 0.85x of a bare AsyncLLM's rows/s and is >= 5x a Hugging Face loop"
    results_file.write("revise_speed", claim, figures, [SEED])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({"rows_per_s": SIDES[sys.argv[1]](Path(scratch))}))
    else:
        main()
