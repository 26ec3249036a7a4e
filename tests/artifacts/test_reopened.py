"""Dropped rows of a finished or a begun stage are open again, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.reopened import num_dropped, reopen
from cai_ray.artifacts.storage import Storage
from tests.artifacts.stage_folders import IDS, ids, opened, part


@pytest.mark.parametrize("is_finished", [True, False])
def test_the_dropped_rows_are_open_again(tmp_path: Path, is_finished: bool) -> None:
    folder = Storage(str(tmp_path / "revise"))
    stage = opened(folder)
    part(folder, ["a", "b"], ("c",))
    part(folder, [], ("d",))
    if is_finished:
        stage.commit(ids("a", "b", "c", "d"))
    assert num_dropped(folder, ["empty"]) == 2 and num_dropped(folder, ["timeout"]) == 0
    assert reopen(folder, IDS, ["empty"]) == 2
    assert find(folder) is None
    again = opened(folder)
    assert sorted(again.done_ids) == ["a", "b"] and again.plan.attempts == 2
    part(folder, ["c"], ("d",))
    manifest = again.commit(ids("a", "b", "c", "d")).manifest
    assert (manifest.rows_out, manifest.rows_dropped, manifest.attempts) == (3, {"empty": 1}, 2)


def test_a_damaged_record_counts_nothing_and_stops_nobody(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "revise"))
    folder.make()
    folder.write("records/torn.json", b'{"name": "5f33')
    assert num_dropped(folder, ["timeout"]) == 0
