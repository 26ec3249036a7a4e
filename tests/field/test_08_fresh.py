"""Case 08: what lies beside the stages belongs to the attempt that made the rows: exports, summaries, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import FakeServer, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECTIONS: dict[str, Any] = {"pairs": {"model": "policy"}, "labels": {"orders": "stored"}, "report": {}}


def run(recipe: Path, *arguments: str) -> None:
    done = command(recipe, *arguments)
    assert done.returncode == 0, done.stderr


def texts(run_folder: Path) -> dict[str, str]:
    """Every file of the run, as text."""
    return {
        str(file.relative_to(run_folder)): json.dumps(pq.read_table(file).to_pylist(), default=str)
        if file.suffix == ".parquet"
        else file.read_text()
        for file in run_folder.rglob("*")
        if file.is_file()
    }


def chosen(run_folder: Path) -> dict[str, str]:
    """Prompt -> the answer that is exported as the better one."""
    rows = [
        row
        for file in (run_folder / "exports/preferences").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    return {row["prompt"][-1]["content"]: row["chosen"][-1]["content"] for row in rows}


def test_a_fresh_run_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    with serving(text="An early answer.") as server:
        recipe = endpoint_recipe(tmp_path, server, 12, **SECTIONS)
        run(recipe)
        before = texts(tmp_path / "run")
        assert {name.split("/")[0] for name, text in before.items() if "An early answer." in text} >= {
            "exports", "report", "revise", "sample_pairs",
        }  # fmt: skip
        server.text = "A later answer."
        run(recipe, "--fresh")
        after = texts(tmp_path / "run")
        assert [name for name, text in after.items() if "An early answer." in text] == []
        assert "A later answer." in after["report/report.html"]
        assert any("A later answer." in text for name, text in after.items() if name.startswith("exports/"))
        relabelled(recipe, server)


def relabelled(recipe: Path, server: FakeServer) -> None:
    """Labels alone made again, by a labeller of another mind: the exports are those of its labels."""
    folder = recipe.parent / "run"
    before, summary = chosen(folder), json.loads((folder / "label_comparisons/summary.json").read_text())
    server.favours = "B"
    run(recipe, "--fresh", "--from", "label_comparisons")
    after = chosen(folder)
    assert before.keys() == after.keys() and all(after[prompt] != before[prompt] for prompt in after)
    assert json.loads((folder / "label_comparisons/summary.json").read_text()) != summary
