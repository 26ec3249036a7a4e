"""Numbers as people read them."""

from __future__ import annotations

from cai_ray.metrics.intervals import Estimate
from cai_ray.stages.cells import cell, percent, points


def test_percent_is_exact_at_its_ends() -> None:
    assert [percent(share) for share in (0.0, 0.4021, 1.0, -0.5, -1.0)] == ["0%", "40.2%", "100%", "-50.0%", "-100%"]


def test_a_cell_is_a_value_with_its_interval() -> None:
    found = Estimate(value=0.703, low=0.6512, high=1.2, n=10)
    assert cell(found) == "70.3% [65.1, 120]"
    assert cell(found, least=0.0, most=1.0) == "70.3% [65.1, 100]"
    assert cell(found, "{:+.2f}".format) == "+0.70 [+0.65, +1.20]"
    assert cell(found, points) == "+70.3 [+65.1, +120.0]"
    assert cell(None) == "-"
