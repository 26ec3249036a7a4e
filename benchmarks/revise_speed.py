"""The revise stage against the same dialogues straight through AsyncLLM, by a staged script, and through Hugging Face.

Each side runs in a process of its own, in turn, three times; the engine's start is left out. Against AsyncLLM and the
loop of Hugging Face in steady state: rows per second between the moment the first 10% of the rows are done and the
moment the last one is. A staged script (vLLM's `LLM`, all rows at one turn, then all at the next) ends all rows at
once: it is compared from the first request to the last row.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import results_file, revise_sides
from benchmarks.recipes import microworld_recipe
from benchmarks.revise_sides import Timed
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline.recipe import Recipe

SEED = 0
NUM_ROWS = 768
NUM_HF_ROWS = 20
REPEATS = 3
# Ray Data, actor pool, parts committed to disk; no Ray and nothing written; the script; a loop over the rows.
SIDES: dict[str, Callable[[Recipe], Timed]] = {
    "stage": revise_sides.stage,
    "direct": revise_sides.direct,
    "staged": revise_sides.staged,
    "hugging_face": lambda recipe: revise_sides.hugging_face(recipe, 1),
}
COMPARED = {"direct": ("steady", 0.85), "staged": ("whole", 1.0), "hugging_face": ("steady", 5.0)}  # and the targets


def one_side(side: str, folder: Path) -> dict[str, float]:
    """Rows/s, in steady state and of the whole."""
    num_rows = NUM_HF_ROWS if side == "hugging_face" else NUM_ROWS
    recipe = microworld_recipe(folder, "speed", ensure_model(), SEED, (f"prompts.num_prompts={num_rows}",))
    timed = SIDES[side](recipe)
    return {"steady": timed.steady_rate(), "whole": timed.rate()}


def _in_own_process(side: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.revise_speed", side]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def main() -> None:
    ensure_model()
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for repeat in range(REPEATS):
        for side, own in runs.items():
            own.append(_in_own_process(side))
            print(f"round {repeat + 1}: {side} {own[-1]['whole']:.2f} rows/s", flush=True)
    figures: dict[str, object] = {}
    for side, (kind, target) in COMPARED.items():
        ratios = [a[kind] / b[kind] for a, b in zip(runs["stage"], runs[side], strict=True)]
        figures[f"stage_to_{side}"] = results_file.spread(ratios) | {"target": target}
    for name, kind in (("rows_per_s", "steady"), ("rows_per_s_whole", "whole")):
        sides = [side for side in runs if (side, kind) != ("staged", "steady")]  # its rows all end at once
        figures[name] = {side: results_file.spread([run[kind] for run in runs[side]]) for side in sides}
    claim = "The revise stage keeps >= 0.85x of a bare AsyncLLM's rows/s and is >= 5x a Hugging Face loop"
    results_file.write("revise_speed", claim, {**figures, "num_rows": NUM_ROWS, "rounds": 4}, [SEED])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(one_side(sys.argv[1], Path(scratch))))
    else:
        main()
