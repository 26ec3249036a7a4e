from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cai_ray.artifacts.artifact import OpenStage, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.quality.gates import GatesConfig
from cai_ray.row_ids import REVISION_IDS
from cai_ray.rows import REVISION
from cai_ray.stages.revision.near_duplicates import drop_near_duplicates
from tests.finished_stages import spec_of

TEXTS = {
    "a": "I will not help with that, because it hurts people. Talk to your neighbour instead.",
    "b": "To bake a loaf of bread, first get flour and a bowl. Then let the dough rest.",
    "c": "I will not help with that, because it hurts people. Talk to your neighbour instead.",
}


def row(prompt_id: str) -> dict:
    done = {"principle_id": "p", "critique": "c", "revision": TEXTS[prompt_id], "flags": []}
    return {
        **{"prompt_id": prompt_id, "sample_index": 0, "kind": "red_team", "source": "s", "split": "train"},
        **{"messages": [{"role": "user", "content": "q"}], "initial_response": "i", "initial_flags": []},
        **{"revisions": [done], "finish_reasons": [], "num_neutralised": 0},
        **{"num_prompt_tokens": 0, "num_cached_tokens": 0, "num_output_tokens": 0},
    }


@pytest.mark.parametrize("gate", ["flag", "drop"])
@pytest.mark.parametrize("times", [1, 2])
def test_repeats_are_flagged_or_dropped_the_same_however_often_it_runs(tmp_path: Path, gate: str, times: int) -> None:
    folder = Storage(str(tmp_path))
    opened = open_stage(spec_of(folder, "revise", REVISION_IDS))
    assert isinstance(opened, OpenStage)
    for ids in (["c"], ["a", "b"]):
        rows = pa.Table.from_pylist([row(i) for i in ids], REVISION)
        write_part(folder, rows, DROPPED.empty_table(), [f"{i}/0" for i in ids])
    for _ in range(times):
        drop_near_duplicates(opened, gates=GatesConfig(near_duplicate=gate))  # type: ignore[arg-type]
    artifact = opened.commit(pa.array(["a/0", "b/0", "c/0"]))
    flags = {r["prompt_id"]: r["revisions"][0]["flags"] for r in artifact.rows()}
    if gate == "flag":
        assert flags == {"a": [], "b": [], "c": ["near_duplicate"]}
    else:
        assert flags == {"a": [], "b": []}
        assert artifact.manifest.rows_dropped == {"near_duplicate": 1}
