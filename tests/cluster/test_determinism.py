"""G5 on real Ray: one or two engines, any order of the input, the same ids, draws, prompts and seeds.

The scripted engine answers with a hash of all that reaches it (see faults.echo), so equal rows mean equal prompts
and equal seeds of every request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.runs import requests, run, shuffled, write_jsonl, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
DECIDED = ("prompt_id", "sample_index", "messages", "initial_response", "revisions")


def converse(folder: Path, model: Path, prompts: Path, num_engines: int, seed: int = 5) -> dict[tuple[str, int], Any]:
    """Key -> what must not depend on the cluster's shape."""
    scaling = {
        "min_engines": num_engines,
        "max_engines": num_engines,
        "rows_per_task": 3 * num_engines,
        "rows_per_part": 7 + num_engines,
    }
    recipe = write_recipe(
        folder, model, prompts, seed=seed, revise={"samples_per_prompt": 2, "num_revisions": 3, "scaling": scaling}
    )
    artifact = run(recipe)
    assert artifact.manifest.counters["engine_starts"] == num_engines
    rows = {(row["prompt_id"], row["sample_index"]): {c: row[c] for c in DECIDED} for row in artifact.rows()}
    assert len(rows) == artifact.manifest.rows_in == artifact.manifest.rows_out
    return rows


def test_engines_and_order_change_nothing(micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.use_script(monkeypatch, faults.Slow(0.02))
    path = write_jsonl(tmp_path / "prompts.jsonl", requests(60))
    one = converse(tmp_path / "one", micro_model, path, 1)
    other_order = shuffled(path, tmp_path / "shuffled" / "prompts.jsonl")
    assert other_order.read_bytes() != path.read_bytes()
    assert converse(tmp_path / "two", micro_model, other_order, 2) == one
    assert len({tuple(r["principle_id"] for r in row["revisions"]) for row in one.values()}) > 10
    assert len({row["initial_response"] for row in one.values()}) == 120


def test_the_seed_decides(micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.use_script(monkeypatch, faults.echo)
    path = write_jsonl(tmp_path / "prompts.jsonl", requests(12))
    one, other = (converse(tmp_path / str(seed), micro_model, path, 1, seed) for seed in (5, 6))
    assert one.keys() == other.keys()
    assert all(one[key]["initial_response"] != other[key]["initial_response"] for key in one)
