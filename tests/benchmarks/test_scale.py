"""The model beyond the machine is its measurements carried on; and a small run of what it is measured with."""

from __future__ import annotations

import pytest

from benchmarks.scale import driver_costs, modelled
from benchmarks.scale_measures import Latency, Pool, Run, latency_of, logical_nodes, run

COSTS = {"always": 0.05, "per_engine": 0.0002, "per_task": 0.002, "per_row": 0.00001}


def measured(num_processes: int, rows_per_task: int, rows_per_s: float) -> Run:
    cores = 0.05 + 0.0002 * num_processes + rows_per_s * (0.002 / rows_per_task + 0.00001)
    return Run(Pool(num_processes, 1, rows_per_task, 32), rows_per_s, cores, 2.0, 0.0, 1000.0)


def test_the_drivers_costs_are_found_again() -> None:
    runs = [measured(2, 32, 3000.0), measured(2, 256, 6000.0), measured(16, 16, 100.0), measured(64, 16, 400.0)]
    assert driver_costs(runs) == pytest.approx(COSTS)


def test_engines_are_as_fast_together_as_alone_until_the_driver_has_no_time() -> None:
    few, many = modelled(256, COSTS, 1000.0), modelled(100_000, COSTS, 1000.0)
    assert few["efficiency"] == 1.0 and few["rows_per_s"] == 512.0 and few["driver_cores"] < 0.2
    assert many["efficiency"] < 0.01 and many["rows_per_s"] == 0.0, "more actors than it can look after"
    busy = modelled(4_200, COSTS, 1000.0)
    assert 0 < busy["efficiency"] < 1 and busy["driver_cores"] == 1.0


def test_a_latency_curve_is_stretched_to_an_engines_speed() -> None:
    speeds = {"hugging_face": {"median": 2.0}, "direct": {"median": 20.0}}
    micro = latency_of(speeds, rounds=2, held=150)
    assert (micro(1), micro(150)) == pytest.approx((0.1, 1.5))
    latency = micro.of_engine(6.4)
    assert latency(32) == pytest.approx(1.0) and latency(1) / latency(32) == pytest.approx(micro(1) / micro(32))


@pytest.mark.slow
@pytest.mark.long  # what it bounds is a speed, which other work on the machine takes away
def test_two_processes_of_two_engines_on_logical_nodes() -> None:
    latency = Latency(0.02, 0.0)
    with logical_nodes() as address:
        found = run(960, Pool(2, 2, 16, 16, latency), address)
    ideal = 2 * 16 / (5 * 0.02)
    assert 0.2 * ideal < found.rows_per_s <= 1.2 * ideal and found.driver_cores > 0 and found.row_bytes > 500
