"""How fast `revise` is on the real model, against what one would write instead: rows/s, tokens/s, prefix-cache hits.

The same conversations of people (of several turns), two rounds, two dialogues of the constitution as examples before
each, sampled as the model's makers say. Sides, each in a process of its own, in turn, three times; the engine's start
does not count:

- `stage`: the product's.
- `direct`: the rows on a bare AsyncLLM.
- `beside_ray`: the same while a Ray idles on the same cores: what is lost to that and not to the stage.
- `staged`: a script of vLLM's `LLM`, all rows at one turn, then all at the next, prefix cache on.
- `batched`, `one_by_one`: transformers' `generate`, 32 rows at a time and one, on as many rows as they have time for.

`full` gives the engine a KV cache that holds an eighth of the rows' conversations.

Run one by `python -m benchmarks.real_model.generation SIDE DTYPE CACHE NUM_ROWS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results_file, revise_sides
from benchmarks.real_model.recipe_run import MAKERS, MAX_TOKENS, MODEL, conversations, sampled
from benchmarks.real_model.weights import model_folder
from cai_ray.pipeline.recipe import Recipe, build

REPEATS = 3
NUM_ROWS = 64
NUM_FEW_SHOT = 2
SEED = 0
FULL_BLOCKS = 320  # of 32 tokens: some eight conversations
# dtype, KV cache, sides, and the share of the rows that each side gets.
CASES: dict[str, tuple[str, str, dict[str, float]]] = {
    "bfloat16": (
        "bfloat16",
        "ample",
        {"stage": 1.0, "direct": 1.0, "beside_ray": 1.0, "staged": 1.0, "batched": 0.5, "one_by_one": 0.1},
    ),
    "bfloat16_full_cache": ("bfloat16", "full", {"stage": 1.0, "staged": 1.0}),
    "float32": ("float32", "ample", {"stage": 0.5, "direct": 0.5, "staged": 0.5}),
}
SIDES: dict[str, Callable[[Recipe], revise_sides.Timed]] = {
    "stage": revise_sides.stage,
    "direct": revise_sides.direct,
    "beside_ray": revise_sides.beside_ray,
    "staged": revise_sides.staged,
    "batched": lambda recipe: revise_sides.hugging_face(recipe, 32),
    "one_by_one": lambda recipe: revise_sides.hugging_face(recipe, 1),
}
TARGETS = {"direct": 0.95, "beside_ray": 0.95, "staged": 1.0, "batched": 3.0, "one_by_one": 8.0}
TARGET_FULL = 1.5


def recipe_of(folder: Path, dtype: str, cache: str, num_rows: int) -> Recipe:
    blocks = {"num_kv_blocks": FULL_BLOCKS} if cache == "full" else {}
    engine = {**MODEL["engine"], **blocks}
    return build(
        {
            "name": "generation",
            "output": str(folder),
            "seed": SEED,
            "constitution": "harmlessness",
            "models": {"policy": {"path": model_folder(), **MODEL, "dtype": dtype, "engine": engine}},
            "prompts": {"sources": [conversations(num_rows)], "test_fraction": 0},
            "revise": {
                "num_revisions": 2,
                "prompts": {"num_few_shot": NUM_FEW_SHOT},
                **sampled(MAKERS),
                "scaling": {"rows_per_task": 16, "rows_per_part": 16},
            },
        },
        "generation",
    )


def one_side(side: str, recipe: Recipe) -> dict[str, float]:
    return SIDES[side](recipe).figures()


def measured(case: str, scale: float) -> dict[str, list[dict[str, float]]]:
    """side -> its runs."""
    dtype, cache, sides = CASES[case]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for repeat in range(REPEATS):
        for side, share in sides.items():
            num_rows = max(4, round(NUM_ROWS * share * scale))
            command = [sys.executable, "-m", "benchmarks.real_model.generation", side, dtype, cache, str(num_rows)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[side].append(json.loads(told.strip().splitlines()[-1]))
            rate, share_cached = found[side][-1]["rows_per_s"], found[side][-1]["cached_share"]
            print(f"{case}, {repeat + 1}: {side} {rate:.3f} rows/s, {share_cached:.0%} of prompts cached", flush=True)
    return found


def figures_of(runs: dict[str, list[dict[str, float]]], is_full: bool) -> dict[str, Any]:
    """Of one case: spreads, and the stage against each other side."""
    found: dict[str, Any] = {
        side: {name: results_file.spread([run[name] for run in own]) for name in own[0]} for side, own in runs.items()
    }
    for side, own in runs.items():
        if side == "stage":
            continue
        ratios = [a["rows_per_s"] / b["rows_per_s"] for a, b in zip(runs["stage"], own, strict=True)]
        target = TARGET_FULL if is_full else TARGETS[side]
        found[f"stage_to_{side}"] = results_file.spread(ratios) | {"target": target}
    return found


def run(scale: float, folder: Path) -> None:
    """`scale`: of the numbers of rows (64 for those with an engine)."""
    done = folder / "real_generation.json"
    cases = json.loads(done.read_text()).get("cases", {}) if done.is_file() else {}
    cases = {name: one for name, one in cases.items() if one["scale"] == scale}
    for case in CASES:
        if case in cases:
            continue  # a run that was ended goes on
        cases[case] = {"scale": scale, **figures_of(measured(case, scale), CASES[case][1] == "full")}
        figures = {
            "rows": NUM_ROWS,
            "rounds": 2,
            "few_shot": NUM_FEW_SHOT,
            "max_tokens": MAX_TOKENS,
            "full_cache_tokens": 32 * FULL_BLOCKS,
            "cases": cases,
        }
        claim = "The revise stage on SmolLM2-135M-Instruct against the ways one would write it instead"
        command = "python -m benchmarks.real_model generation"
        results_file.write("real_generation", claim, figures, [SEED], folder, command)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(one_side(sys.argv[1], recipe_of(Path(scratch), *sys.argv[2:4], int(sys.argv[4])))))
