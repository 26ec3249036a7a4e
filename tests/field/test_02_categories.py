"""Subsets and categories that a recipe does not take are left out, not dropped, whatever their share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.field.load_prompts_runs import load_prompts, manifest_of, write_jsonl, write_recipe

BEHAVIOURS = """Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID
Mock a slow snail,standard,teasing,,,snail
Mock a shy mole,standard,teasing,,,mole
Mock a loud crow,contextual,teasing,,A page about a crow.,crow
Sing the song of the wren,copyright,songs,,,wren
Mock a late bus,standard,teasing,,,bus
Mock a flat tyre,standard,teasing,,,tyre
Mock a wet hat,contextual,teasing,,A page about a hat.,hat
Sing the song of the lark,copyright,songs,,,lark
"""
TOPICS = [{"prompt": f"What about {k}?", "category": ("roof", "door", "wall")[k % 3]} for k in range(9)]


@pytest.mark.parametrize(
    ("prompts", "out", "left_out"),
    [
        ({"path": "behaviours.csv"}, 4, {"subset": 4}),
        ({"path": "behaviours.csv", "functional_categories": ["copyright"]}, 2, {"subset": 6}),
        ({"path": "topics.jsonl", "include_categories": ["roof"]}, 3, {"category": 6}),
        ({"path": "topics.jsonl", "exclude_categories": ["roof", "door"]}, 3, {"category": 6}),
        ({"path": "topics.jsonl", "include_categories": ["roof"], "test_fraction": 1.0}, 3, {"category": 6}),
    ],
)
def test_what_is_not_taken_is_left_out(
    prompts: dict[str, Any], out: int, left_out: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "behaviours.csv").write_text(BEHAVIOURS)
    write_jsonl(tmp_path / "topics.jsonl", TOPICS)
    code, output = load_prompts(write_recipe(tmp_path, prompts))
    assert code == 0, output
    manifest = manifest_of(tmp_path)
    assert (manifest.rows_out, manifest.rows_dropped, manifest.rows_left_out) == (out, {}, left_out)


def test_a_recipe_that_leaves_out_everything_says_what_to_change_and_can_be_mended(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "topics.jsonl", TOPICS)
    code, output = load_prompts(write_recipe(tmp_path, {"path": "topics.jsonl", "include_categories": ["cellar"]}))
    said = " ".join(output.split())
    assert code == 2 and "leaves out all 9 rows" in said and "include_categories" in said
    mended = write_recipe(tmp_path, {"path": "topics.jsonl", "include_categories": ["wall"]})
    assert load_prompts(mended)[0] == 0  # nothing was committed, so nothing is in its way
    assert manifest_of(tmp_path).rows_out == 3
