"""What the pipeline itself costs: a million rows of 2 rounds with two scripted engines that answer at once.

Rows per second through Ray Data, the row coroutines, cleaning, gates and committed parts; and the memory
of the driver and of Ray's object store from row 100,000 to the end.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from benchmarks import results_file
from benchmarks.recipes import microworld_recipe
from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.chat import Message
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.conversations.stage import run_conversations
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from cai_ray.row_ids import PROMPT_IDS, prompt_id_of
from cai_ray.rows import PROMPT
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.revision import revise

NUM_ROWS = 1_000_000
NUM_ENGINES = 2  # one per core of the machine that this is measured on
ROWS_IN_FLIGHT = 1_024  # as a large engine holds; with fewer, one that answers at once waits for the driver's next task
ROWS_PER_PROMPT_FILE = 10_000
ROWS_PER_PART = 2_048
ANSWER = (
    "To paint a garden chair, first get a brush and some primer. Sand the wood, then put on two thin coats of paint."
)


def answer(row_id: str, messages: Sequence[Message], seed: int) -> str:
    return f"{ANSWER} {seed}"


def write_prompts(context: pipeline.Context, num_rows: int) -> None:
    spec = StageSpec(context.folder(load_prompts.STAGE), load_prompts.STAGE, "bench", {}, {}, PROMPT_IDS)
    derive(spec, batched(map(_prompt, range(num_rows)), ROWS_PER_PROMPT_FILE), PROMPT)


def _prompt(k: int) -> Outcome:
    messages = [{"role": "user", "content": f"How do I paint the garden chair number {k} of our school?"}]
    row = {
        "prompt_id": prompt_id_of(messages, "bench"),
        "messages": messages,
        "kind": "red_team",
        "source": "bench",
        "source_row": f"bench:{k}",
        "split": "train",
    }
    return Outcome(f"bench:{k}", row)


class Sample(NamedTuple):
    """What was seen of a run at one time."""

    time: float  # Unix
    num_parts: int
    driver_mb: float  # resident
    driver_cpu_s: float
    machine_cpu_s: float  # of all processes
    shared_mb: float  # of the machine: Ray's object store


class MemoryWatch:
    """Looks at the driver, the machine and the parts in a stage's folder, once a second."""

    def __init__(self, folder: Path) -> None:
        self.samples: list[Sample] = []
        self._folder, self._me = folder, psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self._look()

    def _look(self) -> None:
        num_parts = sum(1 for _ in (self._folder / "records").glob("*.json"))
        used, rss = self._me.cpu_times(), self._me.memory_info().rss
        shared, machine = psutil.virtual_memory().shared, psutil.cpu_times()
        machine_s = machine.user + machine.nice + machine.system
        driver_s = used.user + used.system
        self.samples.append(Sample(time.time(), num_parts, rss / 1e6, driver_s, machine_s, shared / 1e6))


def watched_run(
    name: str, num_rows: int, settings: Mapping[str, Any], script: Script, scratch: Path
) -> tuple[Artifact, MemoryWatch]:
    """`revise` of 2 rounds on so many prompts, from disk to a committed stage, with scripted engines.

    `settings`: recipe keys -> values.
    """
    overrides = ("revise.num_revisions=2", *(f"{key}={value}" for key, value in settings.items()))
    recipe = microworld_recipe(scratch, name, ensure_model(), 0, overrides)
    assert recipe.revise is not None, "the recipe is one of ours"
    context = pipeline.prepare(recipe, steps(recipe))
    # In a process of its own: what it frees would hide what this one grows by.
    writer = multiprocessing.get_context("fork").Process(target=write_prompts, args=(context, num_rows))
    writer.start()
    writer.join()
    job = revise.job_of(recipe.revise, context)
    job = dataclasses.replace(job, make_backend=lambda: ScriptedBackend(script), expected_tokens=200)
    asked = revise.conversations(recipe.revise, context, load_prompts.STAGE)
    with MemoryWatch(Path(context.folder(revise.STAGE).path())) as watch:
        artifact = run_conversations(dataclasses.replace(asked, job=job), context.cluster)
    return artifact, watch


def main(num_rows: int = NUM_ROWS) -> None:
    settings = {
        "models.policy.engine.rows_in_flight": ROWS_IN_FLIGHT,
        "revise.scaling.rows_per_task": 256,
        "revise.scaling.rows_per_part": ROWS_PER_PART,
        "revise.scaling.min_engines": NUM_ENGINES,
        "revise.scaling.max_engines": NUM_ENGINES,
    }
    with tempfile.TemporaryDirectory() as scratch:
        artifact, watch = watched_run("overhead", num_rows, settings, answer, Path(scratch))
        written = sorted(Path(artifact.folder.path(file.name)).stat().st_mtime for file in artifact.manifest.files)
        first = artifact.manifest.files[0].num_rows
        rate = (artifact.manifest.rows_out - first) / (written[-1] - written[0])
    at_100k = [one for one in watch.samples if one.num_parts * ROWS_PER_PART >= min(100_000, num_rows // 5)]
    driver = max(one.driver_mb for one in at_100k) - at_100k[0].driver_mb
    shared = max(one.shared_mb for one in at_100k) - at_100k[0].shared_mb
    print(f"{rate:,.0f} rows/s; from row 100,000 on driver +{driver:.0f} MB, object store +{shared:.0f} MB")
    figures = {
        "rows_per_s": {"value": round(rate, 1), "target": 5000},
        "driver_growth_mb": {"value": round(driver, 1), "target": 50},
        "object_store_growth_mb": {"value": round(shared, 1), "target": 50},
        "driver_mb_at_end": round(watch.samples[-1].driver_mb, 1),
        "num_rows": artifact.manifest.rows_in,
        "rounds": 2,
        "engines": NUM_ENGINES,
        "rows_in_flight": ROWS_IN_FLIGHT,
    }
    claim = "a million rows of 2 rounds pass at >= 5,000 rows/s with flat memory when the engines answer at once"
    results_file.write("row_overhead", claim, figures, [0])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROWS)
