"""The sizes of a mixture match its weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.prompt_layouts.mixture import mixture_key, mixture_sizes, smallest


@pytest.mark.parametrize(
    ("available", "weights", "limit", "sizes"),
    [
        ([100, 100], [1, 1], None, [100, 100]),
        ([100, 40], [1, 1], None, [40, 40]),
        ([100, 100], [3, 1], 40, [30, 10]),
        ([100, 20], [3, 1], None, [60, 20]),
        ([100, 100], [1, 1], 3, [2, 1]),
        ([100, 50], None, None, [100, 50]),
        ([100, 50], None, 30, [20, 10]),
        ([100, 0], None, 30, [30, 0]),
        ([100, 0], [1, 1], None, [0, 0]),
        ([0, 0], None, 5, [0, 0]),
    ],
)
def test_sizes(available: list[int], weights: list[float] | None, limit: int | None, sizes: list[int]) -> None:
    assert mixture_sizes(available, weights, limit) == sizes


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.01, 100)), min_size=1, max_size=6),
    st.none() | st.integers(1, 10**6),
)
def test_sizes_stay_near_the_shares_and_within_what_there_is(
    sources: list[tuple[int, float]], limit: int | None
) -> None:
    available, weights = [count for count, _ in sources], [weight for _, weight in sources]
    sizes = mixture_sizes(available, weights, limit)
    total = sum(sizes)
    assert limit is None or total <= limit
    for size, count, weight in zip(sizes, available, weights, strict=True):
        assert 0 <= size <= count
        assert abs(size - total * weight / sum(weights)) <= 1 + 1e-6 * total


@given(st.sets(st.integers(0, 2**64 - 1), max_size=50), st.data())
def test_exactly_so_many_keys_lie_below_the_bound(keys: set[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(keys)))
    bound = smallest(np.array(sorted(keys, key=str), dtype=np.uint64), size)
    assert sum(key < bound for key in keys) == size


def test_the_draw_is_addressed() -> None:
    assert mixture_key(1, "a") == mixture_key(1, "a")
    assert len({mixture_key(seed, row) for seed in (1, 2) for row in ("a", "b")}) == 4
