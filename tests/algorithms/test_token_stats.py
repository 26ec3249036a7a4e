from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.token_stats import merge, read, token_stats
from tests.answer_batches import kept, lengths, mask_of, noise, seeds


@given(answers=lengths, seed=seeds, order=st.randoms())
def test_parts_merge_to_the_statistics_of_the_whole(answers: list[int], seed: int, order: object) -> None:
    mask = mask_of(answers)
    values = noise(mask, seed)
    parts = [token_stats(mask[[i]], {"x": values[[i]]}, {"y": values[[i]]}) for i in range(len(answers))]
    order.shuffle(parts)  # type: ignore[attr-defined]
    flat = [x for row in kept(values, mask) for x in row]
    assert read(merge(parts)) == {
        "num_tokens": len(flat),
        "x": pytest.approx(sum(flat) / len(flat)),
        "y_min": min(flat),
        "y_max": max(flat),
    }


def test_a_worker_with_only_padding_changes_nothing() -> None:
    some = token_stats(torch.tensor([True]), {"x": torch.tensor([2.0])}, {"y": torch.tensor([3.0])})
    none = token_stats(torch.tensor([False]), {"x": torch.tensor([torch.nan])}, {"y": torch.tensor([torch.nan])})
    assert read(merge([none, some])) == read(some)
    with pytest.raises(ValueError, match="no tokens"):
        read(none)


def test_a_token_that_is_not_a_number_shows() -> None:
    stats = token_stats(torch.tensor([True, True]), {"x": torch.tensor([2.0, torch.nan])}, {"y": torch.zeros(2)})
    assert not torch.tensor(read(stats)["x"]).isfinite()


def test_nothing_to_merge_and_unlike_parts_are_refused() -> None:
    stats = token_stats(torch.tensor([True]), {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="at least one"):
        merge([])
    with pytest.raises(ValueError, match=r"\['z'\]"):
        merge([stats, {**stats, "z": torch.zeros(())}])
