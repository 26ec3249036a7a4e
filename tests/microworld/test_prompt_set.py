"""Prompt files in the micro world's language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.microworld.oracle import parse_request
from cai_ray.microworld.prompt_set import sample_prompts, write_prompts


def test_lines_carry_what_the_oracle_needs(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "new" / "prompts.jsonl", 64, seed=1, harmful_fraction=0.5)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    tasks = [parse_request(line["messages"][-1]["content"]) for line in lines]
    assert len(lines) == 64
    assert [t.topic for t in tasks if t] == [line["category"] for line in lines]
    assert sum(t.harmful for t in tasks if t) == 32
    assert all(t.split == "test" for t in tasks if t)
    assert {line["kind"] for line in lines} == {"red_team"}


def test_kind_of_harmless_requests_can_be_helpful(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl", 16, harmful_fraction=0.5, harmless_kind="helpful")
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds.count("helpful") == 8


def test_prompts_are_distinct_and_seeded() -> None:
    assert sample_prompts(200, seed=3) == sample_prompts(200, seed=3) != sample_prompts(200, seed=4)
    assert len({json.dumps(r.messages) for r in sample_prompts(500)}) == 500


def test_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"harmful_fraction=1\.5"):
        sample_prompts(4, harmful_fraction=1.5)
