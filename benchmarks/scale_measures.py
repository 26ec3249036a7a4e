"""What benchmarks/scale.py measures: an engine's latency, and the real pipeline on engines that only take as long."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.recipes import microworld_recipe
from benchmarks.row_overhead import MemoryWatch, answer, write_prompts
from cai_ray.artifacts.artifact import Artifact
from cai_ray.chat import Message
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.conversations.stage import run_conversations
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.revision import revise

REQUESTS_PER_ROW = 5  # of 2 rounds: answer, critique, revision, critique, revision
ROWS_IN_FLIGHT = 32  # of a scripted engine
NUM_NODES, CPUS_PER_NODE = 4, 2  # logical
MIDDLE = (0.3, 0.8)  # of a run's rows: what is counted, without start and end


@dataclass(frozen=True)
class Latency:
    """Of a request, seconds, by how many the engine holds: a straight line."""

    alone_s: float
    each_s: float  # for each other one

    def __call__(self, num_held: float) -> float:
        return self.alone_s + self.each_s * max(0.0, num_held - 1)

    def of_engine(self, rows_per_s: float) -> Latency:
        """The same curve, as steep as one engine with ROWS_IN_FLIGHT makes so many rows."""
        times = ROWS_IN_FLIGHT / (REQUESTS_PER_ROW * rows_per_s) / self(ROWS_IN_FLIGHT)
        return Latency(self.alone_s * times, self.each_s * times)


def latency_of(rows_per_s: dict[str, dict[str, float]], rounds: int, held: int) -> Latency:
    """By what benchmarks/revise_speed.py measured: transformers one request after the other, vLLM with `held` rows.

    Rows are as long in an engine as it takes to make as many (Little's law).
    """
    per_row = 1 + 2 * rounds
    alone_s = 1 / rows_per_s["hugging_face"]["median"] / per_row
    together_s = held / rows_per_s["direct"]["median"] / per_row
    return Latency(alone_s, (together_s - alone_s) / (held - 1))


@dataclass
class Engines:
    """A script: so many engines in one process, evenly loaded, that take as long as `latency` says."""

    num: int
    latency: Latency
    num_held: int = field(default=0)

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        self.num_held += 1
        try:
            await asyncio.sleep(self.latency(self.num_held / self.num) * (0.5 + seed % 1000 / 1000))
        finally:
            self.num_held -= 1
        return answer(row_id, messages, seed)


@dataclass(frozen=True)
class Pool:
    """Engines of a run; without `latency` they answer at once."""

    num_processes: int
    engines_each: int
    rows_per_task: int
    rows_in_flight: int  # of a process
    latency: Latency | None = None

    @property
    def num_engines(self) -> int:
        return self.num_processes * self.engines_each

    def script(self) -> Script:
        return Engines(self.engines_each, self.latency) if self.latency else answer


@dataclass(frozen=True)
class Run:
    """The middle of a run of the stage `revise`, 2 rounds."""

    pool: Pool
    rows_per_s: float
    driver_cores: float
    object_store_mb: float  # at most, of the machine's shared memory, more than before
    row_bytes: float  # of a finished row in memory


@contextmanager
def logical_nodes() -> Iterator[str]:
    """The address of a Ray of NUM_NODES nodes on this machine."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": CPUS_PER_NODE, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(NUM_NODES - 1):
            cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()


def run(num_rows: int, pool: Pool, address: str) -> Run:
    """The real pipeline, from prompts on disk to a committed stage."""
    scaling = {
        "rows_per_task": pool.rows_per_task,
        "rows_per_part": max(16, min(2_048, num_rows // 32)),
        "min_engines": pool.num_processes,
        "max_engines": pool.num_processes,
        "cpus_per_engine": 0.05,
    }
    overrides = (
        "revise.num_revisions=2",
        f"cluster.address={address}",
        f"models.policy.engine.rows_in_flight={pool.rows_in_flight}",
        *(f"revise.scaling.{name}={value}" for name, value in scaling.items()),
    )
    with tempfile.TemporaryDirectory() as scratch:
        recipe = microworld_recipe(Path(scratch), "scale", ensure_model(), 0, overrides)
        context = pipeline.prepare(recipe, steps(recipe))
        writer = multiprocessing.get_context("fork").Process(target=write_prompts, args=(context, num_rows))
        writer.start()
        writer.join()
        job = revise.job_of(recipe.revise, context)
        script = pool.script()
        job = dataclasses.replace(job, make_backend=lambda: ScriptedBackend(script), expected_tokens=200)
        asked = revise.conversations(recipe.revise, context, load_prompts.STAGE)
        with MemoryWatch(Path(context.folder(revise.STAGE).path())) as watch:
            artifact = run_conversations(dataclasses.replace(asked, job=job), context.cluster)
        table = next(artifact.tables())
        start, end, rate = _middle(artifact)
    times = [sample.time for sample in watch.samples]
    used = np.interp([start, end], times, [sample.driver_cpu_s for sample in watch.samples])
    shared = [sample.shared_mb for sample in watch.samples]
    return Run(
        pool, rate, float(used[1] - used[0]) / (end - start), max(shared) - shared[0], table.nbytes / table.num_rows
    )


def _middle(artifact: Artifact) -> tuple[float, float, float]:
    """When it began and ended, and rows per second: the slope of a line through the files as they were written."""
    files = sorted(
        (Path(artifact.folder.path(one.name)).stat().st_mtime, one.num_rows) for one in artifact.manifest.files
    )
    when = np.array([at for at, _ in files])
    done = np.cumsum([num for _, num in files])
    inside = (done >= MIDDLE[0] * done[-1]) & (done <= MIDDLE[1] * done[-1])
    return when[inside][0], when[inside][-1], float(np.polyfit(when[inside] - when[0], done[inside], 1)[0])
