"""A text is on one side of the split, whatever its source and however many sources hold it."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.derived import Outcome
from cai_ray.stages.inputs.sources import load
from cai_ray.stages.prompt_sources import Config
from tests.field.load_prompts_runs import load_prompts, manifest_of, write_jsonl, write_recipe

TEXTS = [{"prompt": f"Which tea suits hour {k}?"} for k in range(200)]
HALF = {"test_fraction": 0.3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("green", "black"):
        write_jsonl(tmp_path / f"{name}.jsonl", TEXTS)
    return tmp_path


def ends(folder: Path, first: dict[str, Any], second: dict[str, Any], **config: Any) -> list[Outcome]:
    sources = [{"path": str(folder / "green.jsonl"), **first}, {"path": str(folder / "black.jsonl"), **second}]
    return list(load(Config.model_validate({"sources": sources, **config}), 0))


def sides(found: list[Outcome]) -> dict[str, set[str]]:
    by_text: dict[str, set[str]] = defaultdict(set)
    for end in found:
        if end.drop is None:
            by_text[end.row["messages"][-1]["content"]].add(end.row["split"])
    return by_text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HALF, HALF),
        (HALF, {}),
        ({}, HALF),
        (HALF, {"split": "test"}),
        ({}, {"split": "test"}),
        ({"split": "test"}, {}),
        ({"split": "test"}, HALF),
        ({**HALF, "weight": 1}, {**HALF, "weight": 2}),
        ({**HALF, "kind": "helpful"}, {**HALF, "kind": "red_team"}),
    ],
)
def test_a_text_is_on_one_side(first: dict[str, Any], second: dict[str, Any], folder: Path) -> None:
    found = sides(ends(folder, first, second))
    assert len(found) >= 150 and {len(both) for both in found.values()} == {1}
    if "test" in (first.get("split"), second.get("split")):
        assert set.union(*found.values()) == {"test"}  # what is for tests alone is never learned


def test_a_text_stays_where_its_first_prompt_has_always_been(folder: Path) -> None:
    alone = list(load(Config.model_validate({"path": str(folder / "green.jsonl"), **HALF}), 0))
    both = ends(folder, HALF, HALF)
    assert [end.row for end in alone] == [end.row for end in both[:200]]
    assert {end.row["split"] for end in alone} == {"train", "test"}


def test_a_limit_does_not_bring_a_text_to_both_sides(folder: Path) -> None:
    assert {len(both) for both in sides(ends(folder, HALF, HALF, limit=120)).values()} == {1}


def test_a_system_message_makes_no_other_text(folder: Path) -> None:
    told = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["prompt"]}]}
        for row in TEXTS
    ]
    write_jsonl(folder / "black.jsonl", told)
    assert {len(both) for both in sides(ends(folder, HALF, HALF)).values()} == {1}


def test_how_many_texts_are_shared_and_moved_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = ends(folder, {}, {"split": "test"})
    assert "200 texts are in more than one source; 200 of their prompts changed sides" in caplog.text
    assert sum(end.counters.get("texts_shared", 0) for end in found) == 200
    sources = [{"path": "green.jsonl"}, {"path": "black.jsonl", "split": "test"}]
    code, output = load_prompts(write_recipe(folder, {"sources": sources}))
    assert code == 0 and "Texts in more than one source" in output
    counters = manifest_of(folder).counters
    assert (counters["texts_shared"], counters["prompts_moved"]) == (200, 200)
