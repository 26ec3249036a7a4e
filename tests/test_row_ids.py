"""Row ids: what stages count by is what the rows' own ids say, over every kind of row."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cai_ray import row_ids, rows
from cai_ray.row_ids import RowIds

KINDS = {
    "PROMPT_IDS": [rows.PROMPT],
    "SHOT_IDS": [rows.SHOTS_SCHEMA],
    "ASK_IDS": [rows.ASK_SCHEMA],
    "REVISION_IDS": [rows.REVISION],
    "EXAMPLE_IDS": [rows.SFT_EXAMPLE],
    "RESPONSES_IDS": [rows.RESPONSES],
    "PAIR_IDS": [rows.PAIR, rows.PREFERENCE, rows.TRAINING_PAIR],
    "ROLLOUT_IDS": [rows.ROLLOUT],
    "ITEM_IDS": [rows.ITEM],
    "EVALUATION_IDS": [rows.EVALUATION, rows.JUDGEMENT, rows.ANSWER],
    "MATCH_IDS": [rows.MATCH],
    "GAME_IDS": [rows.GAME],
}


def test_every_kind_is_here() -> None:
    assert {name for name, value in vars(row_ids).items() if isinstance(value, RowIds)} == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_ids_are_made_of_columns_that_the_rows_have(name: str) -> None:
    ids: RowIds = getattr(row_ids, name)
    for schema in KINDS[name]:
        assert set(ids.columns) <= set(schema.names)
        assert ids(schema.empty_table()).equals(pa.array([], pa.string()))
        values = {column: [f"{column} {k}" for k in range(3)] for column in ids.columns}
        table = pa.table(values)
        found = ids(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
        assert found.type == pa.string() and len(set(found.to_pylist())) == 3
        for k, one in enumerate(found.to_pylist()):
            assert all(values[column][k] in one for column in ids.columns), "rows that differ have ids that differ"


def test_ids_of_tables_are_those_of_single_rows() -> None:
    table = pa.table(
        {"policy": ["p"], "policy_a": ["p"], "policy_b": ["q"], "step": [7], "prompt_id": ["x/y"], "sample_index": [3]}
    )
    assert row_ids.REVISION_IDS(table).to_pylist() == [row_ids.revision_row_id("x/y", 3)]
    assert row_ids.EVALUATION_IDS(table).to_pylist() == [row_ids.evaluation_row_id("p", "x/y", 3)]
    assert row_ids.ROLLOUT_IDS(table).to_pylist() == [row_ids.rollout_row_id(7, "x/y", 3)]
    assert row_ids.GAME_IDS(table).to_pylist() == [row_ids.match_id_of("p", "q", "x/y", 3)]
