"""Krippendorff's alpha against the example of his paper, and at its ends."""

from __future__ import annotations

import math

import pytest

from cai_ray.metrics.agreement import krippendorff_alpha

# The reliability data of "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
_ = math.nan
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)
UNITS = [[float(value) for value in unit if not math.isnan(value)] for unit in zip(*OBSERVERS, strict=True)]


def test_the_papers_own_example() -> None:
    assert krippendorff_alpha(UNITS, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(UNITS, "interval") == pytest.approx(0.849, abs=5e-4)


def test_its_ends() -> None:
    assert krippendorff_alpha([[0, 0], [1, 1], [1, 1]], "nominal") == 1
    contrary = krippendorff_alpha([[0, 1], [1, 0]], "interval")
    assert contrary is not None and contrary < 0
    assert krippendorff_alpha([[1, 1], [1, 1]], "nominal") is None
    assert krippendorff_alpha([[1], [0]], "nominal") is None
    assert krippendorff_alpha([], "interval") is None
