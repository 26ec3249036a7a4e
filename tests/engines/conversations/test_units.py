"""What is left of an input: every unit that is not committed, once, whatever was committed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.artifacts import ids as ids_module
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.ids import Ids
from cai_ray.engines.conversations.units import FileLeft, left_of, read_units, reading_tasks, units_of
from cai_ray.rows import ROW_ID
from tests.artifacts.stage_folders import IDS
from tests.finished_stages import finished, spec_of

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def twice(table: pa.Table) -> pa.Table:
    """Two units of each row."""
    rows = table.take(pa.array(np.repeat(np.arange(table.num_rows), 2)))
    names = [f"{name}/{k % 2}" for k, name in enumerate(rows["id"].to_pylist())]
    return rows.append_column(ROW_ID, pa.array(names, pa.string()))


def whole(name: str, num_units: int) -> FileLeft:
    return FileLeft(name, np.zeros(num_units, bool))


def test_as_many_tasks_read_as_the_units_need() -> None:
    def names(*num_units: int) -> list[list[str]]:
        files = [whole(f"part-{k}", num) for k, num in enumerate(num_units)]
        return [task["file"].to_pylist() for task in reading_tasks(files)]

    assert names(40) == [["part-0"]]
    assert names(*[256] * 10) == [[f"part-{k}" for k in range(10)]]
    assert names(5000, 256, 256) == [["part-0"], ["part-1", "part-2"]]
    assert len(names(*[10_000] * 50)) == 50
    assert names() == []


def left_rows(source: Artifact, done: Ids) -> list[tuple[str, str]]:
    files = left_of(units_of(source, ("id",), twice), done)
    tables = [table for task in reading_tasks(files) for table in read_units(source.folder, task, twice)]
    return [(row[ROW_ID], row["text"]) for table in tables for row in table.to_pylist()]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
def test_what_is_committed_is_not_done_again_and_all_else_is(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("source")
    rows = [{"id": f"r{k}", "text": f"text {k}"} for k in range(sum(sizes))]
    ends = np.cumsum(sizes)
    source = finished(
        spec_of(folder, "source", IDS), SCHEMA, *(rows[end - n : end] for n, end in zip(sizes, ends, strict=True))
    )
    units = [f"{row['id']}/{k}" for row in rows for k in range(2)]
    done = data.draw(st.sets(st.sampled_from([*units, "elsewhere"])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids_module, "MOST_HELD", data.draw(st.sampled_from([1, 7, 1000])))
        found = left_rows(source, Ids(pa.array(sorted(done), pa.string())))
    assert sorted(row_id for row_id, _ in found) == sorted(set(units) - done)
    assert all(text == f"text {row_id.removeprefix('r').partition('/')[0]}" for row_id, text in found)
