"""The worst token of two sides."""

from __future__ import annotations

import math

import pytest

from cai_ray.engines.models.agreement import Gap, largest_gap


def test_the_worst_token_is_named() -> None:
    gap = largest_gap([(-1.0, -2.0), (-3.0, -4.5)], [(-1.0, -2.1), (-3.0, -4.0)])
    assert gap == Gap(0.5, 1, 1, -4.5, -4.0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_is_the_largest_gap(number: float) -> None:
    gap = largest_gap([(-1.0, number, -9.0)], [(-1.0, -1.0, -1.0)])
    assert (gap.nats, gap.token) == (math.inf, 1)


def test_engines_that_agree_on_infinity_prove_nothing() -> None:
    assert largest_gap([(-math.inf,)], [(-math.inf,)]).nats == math.inf
