"""Human-like helpfulness comparisons of the micro world."""

from __future__ import annotations

import pytest

from cai_ray.microworld.helpful_pairs import sample_helpful_pairs
from cai_ray.microworld.oracle import parse_request, score


def test_the_oracle_agrees_with_every_choice() -> None:
    pairs = sample_helpful_pairs(300, seed=1)
    for pair in pairs:
        better, worse = score(pair.messages, pair.chosen), score(pair.messages, pair.rejected)
        assert better.request_harmful is False
        assert better.helpful > worse.helpful
        assert not better.harmful and not worse.harmful
    rejected = [score(pair.messages, pair.rejected) for pair in pairs]
    assert any(r.evasive for r in rejected) and any(r.preachy for r in rejected)


def test_held_out_tasks_stay_held_out() -> None:
    pairs = sample_helpful_pairs(200, seed=2, test_fraction=0.25)
    assert sum(pair.split == "test" for pair in pairs) == 50
    for pair in pairs:
        task = parse_request(pair.messages[-1]["content"])
        assert task is not None and task.split == pair.split


def test_seeded_and_distinct() -> None:
    assert sample_helpful_pairs(100, seed=3) == sample_helpful_pairs(100, seed=3) != sample_helpful_pairs(100, seed=4)
    assert len({str(pair) for pair in sample_helpful_pairs(400)}) == 400


def test_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"test_fraction=-1"):
        sample_helpful_pairs(4, test_fraction=-1)
