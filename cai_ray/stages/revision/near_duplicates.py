"""The data-set-wide gate: Revision rows whose final text nearly repeats another's.

Runs once all rows are there and before the stage commits. Of each cluster the row with the smallest id
stays, whatever order the rows came in. Running it again after a crash finds the same clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import OpenStage
from cai_ray.artifacts.parts import PartRecord, committed_parts, part_tables, replace_part
from cai_ray.dropped import DROPPED, DropReason, DropRow, dropped_row
from cai_ray.quality.gates import GatesConfig, near_duplicates
from cai_ray.row_ids import revision_row_id


def drop_near_duplicates(opened: OpenStage, *, gates: GatesConfig) -> None:
    """Flag or drop, by `gates.near_duplicate`, every row that repeats another."""
    parts, _ = committed_parts(opened.folder, opened.spec.row_ids)
    repeats = near_duplicates(_final_texts(opened, parts), gates.near_duplicate_jaccard)
    if not repeats:
        return
    for part in parts:
        rows, dropped = part_tables(opened.folder, part)
        if rows is None:
            continue
        settled, newly_dropped, num_changed = [], [], 0
        for row in rows.to_pylist():
            row_id = revision_row_id(row["prompt_id"], row["sample_index"])
            if row_id not in repeats:
                settled.append(row)
                continue
            num_changed += 1
            if gates.near_duplicate == "drop":
                drop = DropRow(DropReason.NEAR_DUPLICATE, f"nearly repeats {repeats[row_id]}")
                newly_dropped.append(dropped_row(row_id, opened.plan.stage, drop))
            else:
                settled.append(_flagged(row))
        if num_changed:
            dropped = pa.concat_tables([dropped, pa.Table.from_pylist(newly_dropped, DROPPED)])
            kept = pa.Table.from_pylist(settled, rows.schema)
            replace_part(opened.folder, part, kept if settled else None, dropped, opened.spec.row_ids)


def _final_texts(opened: OpenStage, parts: list[PartRecord]) -> Iterator[tuple[str, str]]:
    for part in parts:
        rows, _ = part_tables(opened.folder, part)
        for row in rows.to_pylist() if rows is not None else []:
            final = row["revisions"][-1]["revision"] if row["revisions"] else row["initial_response"]
            yield revision_row_id(row["prompt_id"], row["sample_index"]), final


def _flagged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the flag on its last revision (or its initial answer); once, however often it is run."""
    flag = str(DropReason.NEAR_DUPLICATE)
    flags = row["revisions"][-1]["flags"] if row["revisions"] else row["initial_flags"]
    if flag not in flags:
        flags.append(flag)
    return row
