"""What benchmarks/scale.py measures: an engine's latency, and the real pipeline on engines that only take as long."""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.row_overhead import answer, watched_run
from cai_ray.chat import Message

REQUESTS_PER_ROW = 5  # of 2 rounds: answer, critique, revision, critique, revision
ROWS_IN_FLIGHT = 32  # of a scripted engine
STEP_S = 0.04  # of a scripted engine
NUM_NODES, CPUS_PER_NODE = 4, 2  # logical
MIDDLE = (0.2, 0.8)  # of the time in which every engine is at work: what is counted, without start and end


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
    """A script: so many engines in one process, evenly loaded, that take as long as `latency` says, or no time.

    Answers come at the end of a step, several at once, as an engine's do; a process wakes no more often than that.
    When each request was answered goes into a file of this process in `clock`: Unix seconds, float64.
    """

    num: int
    latency: Latency | None
    clock: Path
    num_held: int = field(default=0)
    file: int | None = field(default=None)

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        if self.latency:
            self.num_held += 1
            try:
                due = time.time() + self.latency(self.num_held / self.num) * (0.5 + seed % 1000 / 1000)
                await asyncio.sleep(max(0.0, round(due / STEP_S) * STEP_S - time.time()))
            finally:
                self.num_held -= 1
        if self.file is None:
            self.file = os.open(self.clock / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(self.file, struct.pack("d", time.time()))
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


@dataclass(frozen=True)
class Run:
    """The middle of a run of the stage `revise`, 2 rounds."""

    pool: Pool
    rows_per_s: float
    driver_cores: float
    machine_cores: float  # that all processes took
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
    settings = {
        "cluster.address": address,
        "models.policy.engine.rows_in_flight": pool.rows_in_flight,
        **{f"revise.scaling.{name}": value for name, value in scaling.items()},
    }
    with tempfile.TemporaryDirectory() as scratch:
        clock = Path(scratch) / "clock"
        clock.mkdir()
        script = Engines(pool.engines_each, pool.latency, clock)
        artifact, watch = watched_run("scale", num_rows, settings, script, Path(scratch))
        table = next(artifact.tables())
        start, end, rate = _middle(clock, pool.num_processes)
    times = [sample.time for sample in watch.samples]
    driver_s, machine_s = (
        np.diff(np.interp([start, end], times, [getattr(sample, name) for sample in watch.samples])).item()
        for name in ("driver_cpu_s", "machine_cpu_s")
    )
    shared = [sample.shared_mb for sample in watch.samples]
    return Run(
        pool,
        rate,
        driver_s / (end - start),
        machine_s / (end - start),
        max(shared) - shared[0],
        table.nbytes / table.num_rows,
    )


def _middle(clock: Path, num_processes: int) -> tuple[float, float, float]:
    """When it began and ended, and rows per second: by when the engines answered, while all of them were at work."""
    answered = [np.fromfile(file) for file in clock.iterdir()]
    if len(answered) != num_processes:
        raise RuntimeError(f"{len(answered)} of {num_processes} processes had work; give the run more rows")
    begun, ended = max(one[0] for one in answered), min(one[-1] for one in answered)
    if ended <= begun:
        raise RuntimeError("an engine had ended when the last one began; give the run more rows")
    start, end = (begun + share * (ended - begun) for share in MIDDLE)
    num_answers = sum(int(((one >= start) & (one < end)).sum()) for one in answered)
    return float(start), float(end), float(num_answers / REQUESTS_PER_ROW / (end - start))
