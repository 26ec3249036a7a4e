"""The prompts of a run that are for tests alone: nothing that holds one of them is learned, wherever it comes from.

Tested in tests/field/test_16_contamination.py.
"""

from __future__ import annotations

from cai_ray.artifacts.artifact import find
from cai_ray.dropped import DropRow, LeftOutReason
from cai_ray.row_ids import text_key
from cai_ray.stages.context import Context

BARRED = DropRow(LeftOutReason.HELD_OUT, "the run's prompts hold the same text in split test")
_STAGES = ("load_prompts", "expand_prompts")  # that write the run's prompts


def held_out_texts(context: Context) -> frozenset[bytes]:
    """The `text_key` of every prompt of split test that the run has loaded or had written."""
    found = (find(context.folder(stage)) for stage in _STAGES)
    return frozenset(
        text_key(row["messages"])
        for artifact in found
        if artifact is not None
        for row in artifact.rows(("messages", "split"))
        if row["split"] == "test"
    )
