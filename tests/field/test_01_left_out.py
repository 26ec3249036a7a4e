"""What a recipe leaves out by limit or weight is counted as left out, and ends no run.

A list of prompts in two sources and a trial of twenty of them is the first thing that people do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from tests.field.load_prompts_runs import load_prompts, manifest_of, write_jsonl, write_recipe

SOURCES = [{"path": "birds.jsonl", "kind": "red_team"}, {"path": "trees.jsonl", "kind": "helpful"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "birds.jsonl", [{"prompt": f"Which seeds does finch {k} eat?"} for k in range(60)])
    write_jsonl(tmp_path / "trees.jsonl", [{"prompt": f"How old may oak {k} be?"} for k in range(40)])
    return tmp_path


def test_a_limit_over_two_sources_leaves_out_and_goes_on(folder: Path) -> None:
    recipe = write_recipe(folder, {"sources": SOURCES})
    for said in ("left out", "Nothing to do"):
        code, output = load_prompts(recipe, "--limit", "20")
        assert code == 0 and said in output, output
    manifest = manifest_of(folder)
    assert (manifest.rows_in, manifest.rows_out) == (100, 20)
    assert manifest.rows_dropped == {} and manifest.rows_left_out == {"limit": 80}
    rows = [row for file in (folder / "runs/run/load_prompts").glob("part-*.parquet") for row in _rows(file)]
    assert sorted(row["source"] for row in rows) == ["birds"] * 12 + ["trees"] * 8


def _rows(file: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = pq.read_table(file).to_pylist()
    return found


def test_the_rows_left_out_lie_beside_the_others_and_none_is_dropped(folder: Path) -> None:
    load_prompts(write_recipe(folder, {"sources": SOURCES}), "--limit", "20")
    stage = folder / "runs/run/load_prompts"
    out = {row["source_row"] for file in stage.glob("part-*.parquet") for row in _rows(file)}
    left = {row["row_id"] for file in (stage / "left_out").glob("part-*.parquet") for row in _rows(file)}
    assert not list(stage.glob("dropped/*.parquet"))
    assert not out & left and out | left == {f"birds:{k}" for k in range(60)} | {f"trees:{k}" for k in range(40)}


def test_weights_leave_out_and_a_limit_on_top_is_told_apart(folder: Path) -> None:
    weighted = [dict(source, weight=weight) for source, weight in zip(SOURCES, (0.3, 0.7), strict=True)]
    recipe = write_recipe(folder, {"sources": weighted})
    assert load_prompts(recipe)[0] == 0
    assert manifest_of(folder).rows_left_out == {"weight": 43}  # 40 trees are 70% of 57
    assert load_prompts(recipe, "--limit", "10", "--set", "name=small")[0] == 0
    assert manifest_of(folder, "small").rows_left_out == {"limit": 47, "weight": 43}


def test_no_share_of_rows_left_out_ends_a_run_but_the_share_dropped_does(folder: Path) -> None:
    write_jsonl(folder / "trees.jsonl", [{"prompt": ""}] * 30 + [{"prompt": f"How old is oak {k}?"} for k in range(10)])
    recipe = write_recipe(folder, {"sources": SOURCES})
    code, output = load_prompts(recipe, "--limit", "7")
    assert code == 3 and "dropped 30 of 100" in output
    assert load_prompts(recipe, "--limit", "7", "--set", "prompts.max_dropped_fraction=0.31")[0] == 0


def test_status_tells_both_counts(folder: Path) -> None:
    recipe = write_recipe(folder, {"sources": SOURCES})
    load_prompts(recipe, "--limit", "20")
    arguments = ["status", str(recipe), "--set", "prompts.limit=20"]
    (line,) = [
        stage
        for stage in json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["stages"]
        if stage["stage"] == "load_prompts"
    ]
    assert (line["rows_in"], line["rows_out"], line["rows_dropped"]) == (100, 20, {})
    assert line["rows_left_out"] == {"limit": 80}
    table = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}).output
    assert "left out" in table and "limit 80" in table
