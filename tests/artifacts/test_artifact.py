"""Artifacts: conservation, atomic commit, a folder that is never mixed (G1-G4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import Artifact, check_conservation, find
from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError, ConservationError
from tests.artifacts.stage_folders import ids, open_, opened, part


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "revise"))


def test_a_stage_commits_once_everything_is_accounted_for(folder: Storage) -> None:
    stage = opened(folder)
    part(folder, ["a", "b"], ("c",))
    part(folder, ["d"])
    artifact = stage.commit(ids("a", "b", "c", "d"))
    manifest = artifact.manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_dropped) == (4, 3, {"empty": 1})
    assert manifest.counters == {"tokens": 20}
    assert sorted(row["id"] for row in artifact.rows()) == ["a", "b", "d"]
    assert [row["row_id"] for row in artifact.dropped()] == ["c"]
    again = open_(folder)
    assert isinstance(again, Artifact), "a finished stage is a no-op (G4)"


@pytest.mark.parametrize(
    ("asked", "message"),
    [(("a", "b", "x"), "1 input ids came out nowhere"), (("a",), "1 ids came out that never went in")],
)
def test_a_lost_or_invented_row_refuses_to_commit(folder: Storage, asked: tuple[str, ...], message: str) -> None:
    stage = opened(folder)
    part(folder, ["a"], ("b",))
    with pytest.raises(ConservationError, match=message):
        stage.commit(ids(*asked))
    assert find(folder) is None


def test_another_fingerprint_is_refused_with_what_changed(folder: Storage) -> None:
    stage = opened(folder)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"rounds: 2 -> 3"):
            open_(folder, "g", {"rounds": 3})
        part(folder, ["a"])
        stage.commit(ids("a"))


def test_the_duration_counts_earlier_attempts(folder: Storage) -> None:
    opened(folder)
    lines = [{"attempt": 1, "elapsed_s": 5.0}, {"attempt": 1, "elapsed_s": 100.0}, {"attempt": 2, "elapsed_s": 0.1}]
    folder.write("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode() + b'\n{"att')
    stage = opened(folder)
    part(folder, ["a"])
    assert 100 <= stage.commit(ids("a")).manifest.duration_s < 110


def test_conservation_counts_repeated_input() -> None:
    with pytest.raises(ConservationError, match="1 ids repeat in the input"):
        check_conservation(Ids(ids("a", "a")), Ids(ids("a")), "revise")
