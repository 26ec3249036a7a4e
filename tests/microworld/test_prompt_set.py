"""Sets of prompts in the micro world's language."""

from __future__ import annotations

import json

import pytest

from cai_ray.microworld.oracle import parse_request
from cai_ray.microworld.prompt_set import sample_prompts


def test_the_oracle_knows_every_request() -> None:
    requests = sample_prompts(64, seed=1, harmful_fraction=0.5)
    tasks = [parse_request(request.messages[-1]["content"]) for request in requests]
    assert [task.topic for task in tasks if task] == [request.category for request in requests]
    assert sum(task.harmful for task in tasks if task) == sum(request.harmful for request in requests) == 32
    assert all(task.split == "test" for task in tasks if task)


def test_prompts_are_distinct_and_seeded() -> None:
    assert sample_prompts(200, seed=3) == sample_prompts(200, seed=3) != sample_prompts(200, seed=4)
    assert len({json.dumps(r.messages) for r in sample_prompts(500)}) == 500


def test_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"harmful_fraction=1\.5"):
        sample_prompts(4, harmful_fraction=1.5)
