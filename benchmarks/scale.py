"""How far the pipeline scales: measured on this machine with scripted engines, and a model of it beyond.

Measured: the real pipeline on four logical nodes with 1 to 256 scripted engines, which answer as late as an engine does
by how many requests it holds (by benchmarks/revise_speed.py), stretched to one that makes ENGINE_ROWS_PER_S; then 256
of a faster kind, which nearly fill the machine; and what engines that answer at once leave the driver to do. A process
holds up to 16 engines: 256 processes would not fit here. The model is the driver's measured seconds carried on, with an
actor per engine: it is one thread, and until it has no time left, engines are as fast together as each is alone. Commit
and resume do not depend on the engines; their times are those of benchmarks/resume.py. Nothing of a network or of a
store's speed is in any of it.

For a machine that does nothing else. Rows are counted by when the engines answer, while all of them are at work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks import results_file
from benchmarks.scale_measures import ROWS_IN_FLIGHT, Latency, Pool, Run, latency_of, logical_nodes, run

POOLS = ((1, 1, 128), (16, 1, 192), (16, 4, 192), (16, 16, 256))  # processes, engines in each, rows for each of them
ENGINE_ROWS_PER_S = 2.0  # 1,000 tokens a row at 2,000 tokens/s: a model of some 30B parameters on one GPU
FAST_ROWS_PER_S = 6.4  # one of 8B
FAST_ROWS = 384
MICRO_HELD = 141  # rows that vLLM held in benchmarks/revise_speed.py: 1.1 x max_num_seqs
AT_ONCE = ((40_000, 32), (80_000, 256))  # rows, rows per task, of two engines that answer at once
MODELLED = (1, 4, 16, 64, 256, 1024)
ROWS_PER_TASK = 256  # of the model, as docs/clusters.md says for large runs
TARGET_EFFICIENCY, TARGET_ENGINES = 0.95, 256
MANY = 100_000_000
COSTS = ("always", "per_engine", "per_task", "per_row")


def paced(num_processes: int, engines_each: int, latency: Latency) -> Pool:
    """Engines with ROWS_IN_FLIGHT each, handed half as many at a time."""
    return Pool(num_processes, engines_each, ROWS_IN_FLIGHT * engines_each // 2, ROWS_IN_FLIGHT * engines_each, latency)


def driver_costs(runs: Sequence[Run]) -> dict[str, float]:
    """The driver's seconds: of each second, of each actor and second, of each task, of each row; none is negative."""
    counts = np.array(
        [[1, one.pool.num_processes, one.rows_per_s / one.pool.rows_per_task, one.rows_per_s] for one in runs]
    )
    scale = counts.max(axis=0)
    found, _ = nnls(counts / scale, np.array([one.driver_cores for one in runs]))
    return {name: float(cost) for name, cost in zip(COSTS, found / scale, strict=True)}


def modelled(num_engines: int, costs: dict[str, float], row_bytes: float) -> dict[str, float]:
    """An actor per engine, and engines that are idle only when the driver is late."""
    wanted = num_engines * ENGINE_ROWS_PER_S
    steady = costs["always"] + num_engines * costs["per_engine"]
    per_row = costs["per_task"] / ROWS_PER_TASK + costs["per_row"]
    rate = min(wanted, max(0.0, 1.0 - steady) / per_row) if per_row else wanted
    return {
        "engines": num_engines,
        "rows_per_s": round(rate, 1),
        "efficiency": round(rate / wanted, 3),
        "driver_cores": round(min(1.0, steady + rate * per_row), 3),
        "object_store_mb": round(3 * num_engines * ROWS_PER_TASK * row_bytes / 1e6, 1),  # waiting, held, to be written
        "days_of_100m_rows": round(MANY / rate / 86_400, 2) if rate else float("inf"),
    }


def shown(one: Run, engine_rows_per_s: float = ENGINE_ROWS_PER_S) -> dict[str, float]:
    return {
        "engines": one.pool.num_engines,
        "processes": one.pool.num_processes,
        "rows_per_s": round(one.rows_per_s, 2),
        "efficiency": round(one.rows_per_s / one.pool.num_engines / engine_rows_per_s, 3),
        "driver_cores": round(one.driver_cores, 3),
        "machine_cores": round(one.machine_cores, 2),
        "object_store_mb": round(one.object_store_mb, 1),
    }


def resume_of_many() -> dict[str, Any]:
    """Seconds and GiB for 100 million rows, from what benchmarks/resume.py found."""
    found = json.loads((results_file.RESULTS / "resume.json").read_text())
    plan_s, check_s = found["plan_of_100m_rows_s"]["value"], found["check_of_100m_rows_s"]
    return {"resume_s": plan_s, "commit_s": plan_s + check_s, "peak_gib": found["peak_of_100m_rows_gib"]["value"]}


def main() -> None:
    speed = json.loads((results_file.RESULTS / "revise_speed.json").read_text())
    micro = latency_of(speed["rows_per_s"], speed["rounds"], MICRO_HELD)
    latency = micro.of_engine(ENGINE_ROWS_PER_S)
    print(latency, flush=True)
    fast = micro.of_engine(FAST_ROWS_PER_S)
    runs = []
    with logical_nodes() as address:
        for num_rows, rows_per_task in AT_ONCE:
            runs.append(run(num_rows, Pool(2, 1, rows_per_task, 1_024), address))
            print(runs[-1], flush=True)
        for num_processes, engines_each, rows_each in POOLS:
            pool = paced(num_processes, engines_each, latency)
            runs.append(run(rows_each * pool.num_engines, pool, address))
            print(shown(runs[-1]), flush=True)
        num_processes, engines_each, _ = POOLS[-1]
        pool = paced(num_processes, engines_each, fast)
        faster = run(FAST_ROWS * pool.num_engines, pool, address)
        print(shown(faster, FAST_ROWS_PER_S), flush=True)
    at_once, measured = runs[: len(AT_ONCE)], [shown(one) for one in runs[len(AT_ONCE) :]]
    costs, row_bytes = driver_costs(runs), at_once[-1].row_bytes
    model = [modelled(num, costs, row_bytes) for num in MODELLED]
    at_target = next(one for one in measured if one["engines"] == TARGET_ENGINES)
    figures = {
        "micro_engine": {"alone_s": round(micro.alone_s, 4), "held": MICRO_HELD, "then_s": round(micro(MICRO_HELD), 3)},
        "engine": {
            "rows_per_s": ENGINE_ROWS_PER_S,
            "rows_in_flight": ROWS_IN_FLIGHT,
            "latency_alone_s": round(latency.alone_s, 3),
            "latency_each_s": round(latency.each_s, 4),
        },
        "measured": measured,
        "faster_engines": {"engine_rows_per_s": FAST_ROWS_PER_S, **shown(faster, FAST_ROWS_PER_S)},
        "at_once": [
            {
                "rows_per_task": one.pool.rows_per_task,
                "rows_per_s": round(one.rows_per_s),
                "driver_cores": round(one.driver_cores, 3),
            }
            for one in at_once
        ],
        "driver_s": {name: float(f"{cost:.3g}") for name, cost in costs.items()},
        "bytes_of_a_row": round(row_bytes),
        "model": model,
        "of_100m_rows": resume_of_many(),
        "efficiency_at_256_engines": {"value": at_target["efficiency"], "target": TARGET_EFFICIENCY},
    }
    results_file.write("scale", "256 engines keep 0.95 of their speed", figures, [0])
    print(json.dumps(model, indent=1))


if __name__ == "__main__":
    main()
