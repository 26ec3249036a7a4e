"""Parts: what counts when files are lost, damaged or written twice (G1-G3), with the faults injected into the files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.artifacts.parts import committed_parts, remove_orphans, without_rows, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED, DropReason, DropRow, LeftOutReason, dropped_row
from tests.artifacts.stage_folders import IDS, ids, opened, part


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "revise"))


def test_orphans_do_not_count_and_are_removed(folder: Storage) -> None:
    stage = opened(folder)
    name = part(folder, ["a", "b"])
    part(folder, ["c"], ("d",))
    folder.delete(f"records/{name}.json")  # the writer was killed between the file and its record
    folder.write(".tmp-123", b"half a file")
    parts, done = committed_parts(folder, IDS)
    assert sorted(done) == ["c", "d"]
    assert sorted(opened(folder).done_ids) == ["c", "d"]
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
    assert list(opened(folder).done_ids) == ["c"]


def test_a_row_claimed_by_two_parts_counts_once(folder: Storage) -> None:
    stage = opened(folder)
    part(folder, ["a", "b", "c"], ("d",))
    part(folder, ["c", "e"], ("d", "f"))
    part(folder, ["a", "b", "c"], ("d",))  # a retried write lands on itself
    artifact = stage.commit(ids("a", "b", "c", "d", "e", "f"))
    assert sorted(row["id"] for row in artifact.rows()) == ["a", "b", "c", "e"]
    assert sorted(row["row_id"] for row in artifact.dropped()) == ["d", "f"]


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


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_rows_left_out_are_as_safe_as_all_others(folder: Storage, damage: str) -> None:
    rows = pa.Table.from_pylist([{"id": "a", "text": "tea"}])
    reasons: dict[str, DropReason | LeftOutReason] = {
        "b": LeftOutReason.LIMIT,
        "c": LeftOutReason.WEIGHT,
        "d": DropReason.EMPTY,
    }
    gone = [dropped_row(row_id, "revise", DropRow(reason, "why")) for row_id, reason in reasons.items()]
    record = write_part(folder, rows, pa.Table.from_pylist(gone, DROPPED), [*"abcd"])
    assert (record.num_rows, record.num_dropped, record.num_left_out) == (1, 1, 2)
    assert record.left_out_by_reason == {"limit": 1, "weight": 1} and record.dropped_by_reason == {"empty": 1}
    parts, accounted = committed_parts(folder, IDS)
    assert parts == [record] and sorted(accounted) == [*"abcd"]
    smaller = without_rows(folder, record, {"b", "d"}, IDS)  # as where another part claims the others
    assert smaller is not None and smaller.left_out_by_reason == {"weight": 1} and smaller.dropped is None
    assert smaller.left_out is not None
    if damage == "gone":
        folder.delete(smaller.left_out.name)
    else:
        folder.write(smaller.left_out.name, folder.read(smaller.left_out.name)[:-9])
    assert committed_parts(folder, IDS)[0] == []  # all of it is made again
    assert set(remove_orphans(folder, [])) <= {file.name for file in smaller.files}
    assert folder.names("left_out", ".parquet") == []
