"""The micro world's recipe as the benchmarks run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.pipeline.recipe import Recipe, build
from cai_ray.pipeline.recipe import apply_overrides as with_overrides

MAX_TOKENS = 64


def microworld_recipe(output: Path, name: str, model: Path, seed: int, overrides: tuple[str, ...] = ()) -> Recipe:
    """512 prompts, 4 rounds, as in jobs/recipes/quickstart.yaml, on a given micro model and seed."""
    engine = {"max_num_seqs": 128, "max_num_batched_tokens": 4096}
    data: dict[str, Any] = {
        "name": name,
        "output": str(output),
        "seed": seed,
        "constitution": "microworld",
        "models": {"policy": {"path": str(model), "engine": engine}},
        "prompts": {"path": "microworld", "num_prompts": 512, "harmful_fraction": 0.625},
        "revise": {
            "num_revisions": 4,
            "answer_sampling": {"max_tokens": MAX_TOKENS},
            "critique_sampling": {"max_tokens": MAX_TOKENS, "temperature": 0.7},
            "revision_sampling": {"max_tokens": MAX_TOKENS, "temperature": 0.4},
            "scaling": {"rows_per_task": 16, "rows_per_part": 32},
        },
    }
    return build(with_overrides(data, overrides), name)
