"""Parts and artifacts: conservation, atomic commit, resume (G1-G4), with the faults injected into the files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.artifacts.artifact import Artifact, OpenStage, StageSpec, check_conservation, find, open_stage
from cai_ray.artifacts.parts import committed_parts, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.errors import ConfigError, ConservationError
from cai_ray.row_ids import RowIds

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


IDS = RowIds(("id",))


def open_(folder: Storage, fingerprint: str = "f", config: dict | None = None) -> Artifact | OpenStage:
    return open_stage(StageSpec(folder, "revise", fingerprint, config or {"rounds": 2}, {}, IDS))


def opened(folder: Storage) -> OpenStage:
    stage = open_(folder)
    assert isinstance(stage, OpenStage)
    return stage


def part(folder: Storage, ids: list[str], dropped: tuple[str, ...] = ()) -> str:
    rows = pa.Table.from_pylist([{"id": i, "text": f"text {i}"} for i in ids], SCHEMA)
    gone = [{"row_id": i, "stage": "revise", "reason": "empty", "detail": "", "attempts": 1} for i in dropped]
    return write_part(folder, rows, pa.Table.from_pylist(gone, DROPPED), [*ids, *dropped], {"tokens": 10}).name


def ids(*names: str) -> pa.Array:
    return pa.array(names, pa.string())


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


def test_orphans_do_not_count_and_are_removed(folder: Storage) -> None:
    stage = opened(folder)
    name = part(folder, ["a", "b"])
    part(folder, ["c"], ("d",))
    folder.delete(f"records/{name}.json")  # the writer was killed between the file and its record
    folder.write(".tmp-123", b"half a file")
    parts, done = committed_parts(folder, IDS)
    assert done.to_pylist() == ["c", "d"]
    assert opened(folder).done_ids.to_pylist() == ["c", "d"]
    assert folder.size_bytes(f"part-{name}.parquet") is None
    assert folder.size_bytes(".tmp-123") is None
    part(folder, ["a", "b"])
    assert stage.commit(ids("a", "b", "c", "d")).manifest.rows_out == 3
    assert len(parts) == 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "record"])
def test_a_damaged_part_is_made_again(folder: Storage, damage: str) -> None:
    opened(folder)
    name = part(folder, ["a", "b"])
    part(folder, ["c"])
    file = f"part-{name}.parquet"
    content = folder.read(file)
    if damage == "truncated":
        folder.write(file, content[:-10])
    elif damage == "changed":
        folder.write(file, content[:-10] + b"0123456789")
    elif damage == "missing":
        folder.delete(file)
    else:
        folder.write(f"records/{name}.json", b'{"name": "half')
    assert opened(folder).done_ids.to_pylist() == ["c"]


def test_a_row_claimed_by_two_parts_counts_once(folder: Storage) -> None:
    stage = opened(folder)
    part(folder, ["a", "b", "c"], ("d",))
    part(folder, ["c", "e"], ("d", "f"))
    part(folder, ["a", "b", "c"], ("d",))  # a retried write lands on itself
    artifact = stage.commit(ids("a", "b", "c", "d", "e", "f"))
    assert sorted(row["id"] for row in artifact.rows()) == ["a", "b", "c", "e"]
    assert sorted(row["row_id"] for row in artifact.dropped()) == ["d", "f"]


def test_another_fingerprint_is_refused_with_what_changed(folder: Storage) -> None:
    stage = opened(folder)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"rounds: 2 -> 3"):
            open_(folder, "g", {"rounds": 3})
        part(folder, ["a"])
        stage.commit(ids("a"))


def test_an_unwritable_output_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        open_(Storage(str(tmp_path / "file" / "run")))
    with pytest.raises(ConfigError, match="not a location"):
        open_(Storage("nosuch://bucket/run"))


def test_the_duration_counts_earlier_attempts(folder: Storage) -> None:
    opened(folder)
    lines = [{"attempt": 1, "elapsed_s": 5.0}, {"attempt": 1, "elapsed_s": 100.0}, {"attempt": 2, "elapsed_s": 0.1}]
    folder.write("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode() + b'\n{"att')
    stage = opened(folder)
    part(folder, ["a"])
    assert 100 <= stage.commit(ids("a")).manifest.duration_s < 110


def test_it_works_on_a_pyarrow_uri(tmp_path: Path) -> None:
    folder = Storage(f"file://{tmp_path}/run") / "revise"
    stage = opened(folder)
    part(folder, ["a"])
    assert stage.commit(ids("a")).manifest.rows_out == 1
    assert (tmp_path / "run" / "revise" / "manifest.json").exists()


@settings(max_examples=40)
@given(
    units=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True, min_size=1, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 6), st.booleans()), max_size=12),
)
def test_however_parts_overlap_each_id_comes_out_once(
    tmp_path_factory: pytest.TempPathFactory, units: list[str], cuts: list[tuple[int, int, bool]]
) -> None:
    folder = Storage(str(tmp_path_factory.mktemp("stage")))
    stage = opened(folder)
    for start, length, drop_last in cuts:
        members = units[start : start + length]
        if members:
            part(folder, members[:-1] if drop_last else members, tuple(members[-1:]) if drop_last else ())
    part(folder, units)
    artifact = stage.commit(pa.array(units, pa.string()))
    came_out = [row["id"] for row in artifact.rows()] + [row["row_id"] for row in artifact.dropped()]
    assert sorted(came_out) == sorted(units)


def test_conservation_counts_repeated_input() -> None:
    with pytest.raises(ConservationError, match="1 ids repeat in the input"):
        check_conservation(ids("a", "a"), ids("a"), "revise")
