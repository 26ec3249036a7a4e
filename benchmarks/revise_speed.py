"""The revise stage against the same dialogues straight through AsyncLLM, and one by one through Hugging Face.

Each side runs in a process of its own, in turn, three times. Steady state: rows per second between the
moment the first 10% of the rows are done and the moment the last one is; engine start-up is left out.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.recipes import microworld_recipe
from cai_ray.config import SamplingConfig
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.vllm_backend import VllmBackend
from cai_ray.engines.conversations.asking import Completion
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.revision import revise

SEED = 0
NUM_ROWS = 768
NUM_HF_ROWS = 20
REPEATS = 3


def _context(folder: Path, num_rows: int) -> tuple[Any, Any]:
    overrides = (f"prompts.num_prompts={num_rows}",)
    recipe = microworld_recipe(folder, "speed", ensure_model(), SEED, overrides)
    found = steps(recipe)
    context = pipeline.prepare(recipe, found)
    found[0].run(context)
    return recipe, context


def _steady_rate(done_at: list[float]) -> float:
    done_at = sorted(done_at)
    warm = len(done_at) // 10
    return (len(done_at) - warm) / (done_at[-1] - done_at[warm - 1])


def stage(folder: Path) -> float:
    """Rows/s of the stage itself: Ray Data, actor pool, parts committed to disk."""
    recipe, context = _context(folder, NUM_ROWS)
    artifact = revise.run(recipe.revise, context, load_prompts.STAGE)
    done_at: list[float] = []
    for file in artifact.manifest.files:
        done_at += [Path(artifact.folder.path(file.name)).stat().st_mtime] * file.num_rows
    return _steady_rate(done_at)


def direct(folder: Path) -> float:
    """Rows/s of the same row coroutine on a bare AsyncLLM, no Ray, nothing written."""
    recipe, context = _context(folder, NUM_ROWS)
    job = revise.job_of(recipe.revise, context)
    units = [unit for table in context.artifact(load_prompts.STAGE).tables() for unit in job.expand(table).to_pylist()]
    done_at: list[float] = []

    async def everything() -> None:
        backend = VllmBackend(context.model("policy"))
        await backend.start()
        slots = asyncio.Semaphore(backend.max_concurrent_rows)

        async def one(unit: dict[str, Any]) -> None:
            async with slots:
                ask = backend.open(unit["row_id"], lambda k: k, lambda send: send())
                with suppress(DropRow):  # done all the same
                    await job.converse(unit, ask)
                done_at.append(time.time())

        await asyncio.gather(*(one(unit) for unit in units))
        backend.close()

    asyncio.run(everything())
    return _steady_rate(done_at)


class OneByOne:
    """The dialogue's Ask as a script with transformers' generate() has it: one request after the other."""

    max_model_len = None

    def __init__(self, model: Any, renderer: Any) -> None:
        self.model, self.renderer = model, renderer

    def count_tokens(self, messages: Any) -> None:
        return None

    async def __call__(self, messages: Any, sampling: SamplingConfig) -> Completion:
        import torch

        ids = torch.tensor([self.renderer.encode(self.renderer.text(messages))])
        with torch.no_grad():
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_tokens,
            )
        text = self.renderer.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return Completion(text=text.strip(), finish_reason="stop")


def hugging_face(folder: Path) -> float:
    """Rows/s of a loop over the rows with transformers' generate()."""
    from transformers import AutoModelForCausalLM

    from cai_ray.engines.models.reading import load_renderer

    recipe, context = _context(folder, NUM_HF_ROWS)
    job = revise.job_of(recipe.revise, context)
    config = context.model("policy")
    model = AutoModelForCausalLM.from_pretrained(config.path).eval()
    ask = OneByOne(model, load_renderer(config))
    units = [unit for table in context.artifact(load_prompts.STAGE).tables() for unit in job.expand(table).to_pylist()]
    done_at: list[float] = []
    for unit in units:
        with suppress(DropRow):
            asyncio.run(job.converse(unit, ask))
        done_at.append(time.time())
    return _steady_rate(done_at)


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
