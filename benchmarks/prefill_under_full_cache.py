"""Tokens prefilled with a KV cache that cannot hold all conversations, against a cache that holds everything.

What keeps the two close is the row gate: as many conversations are open as the cache can hold, so that
each one's prefix is still there at its next turn.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks import results_file
from benchmarks.recipes import microworld_recipe
from cai_ray.engines.conversations.generation import ConversationActor
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.revision import revise

SEEDS = (0, 1, 2)
NUM_ROWS = 384
FULL_CACHE_BLOCKS = 256  # x 32 tokens = 8,192 tokens, some twenty conversations


def prefilled(folder: Path, seed: int, num_kv_blocks: int | None) -> tuple[int, int]:
    """(tokens prefilled, tokens of the KV cache) for the same rows."""
    blocks = () if num_kv_blocks is None else (f"models.policy.engine.num_kv_blocks={num_kv_blocks}",)
    overrides = (f"prompts.num_prompts={NUM_ROWS}", *blocks)
    recipe = microworld_recipe(folder, f"prefill-{seed}-{num_kv_blocks}", ensure_model(), seed, overrides)
    found = steps(recipe)
    context = pipeline.prepare(recipe, found)
    found[0].run(context)
    job = revise.job_of(recipe.revise, context)
    (table,) = context.artifact(load_prompts.STAGE).tables()

    async def everything() -> tuple[int, int]:
        actor = ConversationActor(job)
        counters: dict[str, int] = {}
        async for outcomes in actor(job.expand(table)):
            for pairs in outcomes["counters"].to_pylist():
                for name, value in pairs:
                    counters[name] = counters.get(name, 0) + value
        backend = actor.backend
        backend.close()  # type: ignore[attr-defined]
        return counters["num_prompt_tokens"] - counters["num_cached_tokens"], backend.num_kv_tokens or 0

    return asyncio.run(everything())


def main() -> None:
    ratios, rows = [], []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as scratch:
            unlimited, large = prefilled(Path(scratch), seed, None)
            full, small = prefilled(Path(scratch), seed, FULL_CACHE_BLOCKS)
        ratios.append(full / unlimited)
        rows.append({"seed": seed, "kv_tokens": [large, small], "prefilled_tokens": [unlimited, full]})
        print(f"seed {seed}: {unlimited:,} tokens with {large:,} cached, {full:,} with {small:,}", flush=True)
    figures = {"full_to_unlimited": results_file.spread(ratios) | {"target": 1.1}, "runs": rows, "num_rows": NUM_ROWS}
    results_file.write(
        "prefill_under_full_cache", "With a full KV cache at most 1.1x as many tokens are prefilled", figures, SEEDS
    )


if __name__ == "__main__":
    sys.exit(main())
