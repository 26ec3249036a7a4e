"""benchmarks/chaos: what it counts as lost, doubled and done again; and one fault of it, whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos.counting import Outcome, lost_and_doubled, num_repeated, step_entries
from cai_ray.artifacts.artifact import Artifact, StageSpec, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED, DropReason, DropRow, dropped_row
from cai_ray.row_ids import PAIR_IDS
from tests.hosts import ROOT

GONE = DropRow(DropReason.EMPTY, "")


def stage(run: Path, name: str = "label_comparisons") -> Artifact:
    """Two parts of two rows each; of the second one row was dropped."""
    opened = open_stage(StageSpec(Storage(str(run / name)), name, "f", {}, {}, PAIR_IDS))
    assert not isinstance(opened, Artifact)
    names = [f"p/{k}-{k + 1}" for k in range(4)]
    write_part(
        opened.folder, pa.table({"pair_id": names[:2], "prompt_id": ["p", "p"]}), DROPPED.empty_table(), names[:2]
    )
    dropped = pa.Table.from_pylist([dropped_row(names[3], name, GONE)], DROPPED)
    write_part(opened.folder, pa.table({"pair_id": names[2:3], "prompt_id": ["p"]}), dropped, names[2:])
    return opened.commit(pa.array(names))


def test_a_run_without_faults_lost_and_doubled_nothing(tmp_path: Path) -> None:
    stage(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "run")
    assert lost_and_doubled(Storage(str(tmp_path / "run")), Storage(str(tmp_path / "base"))) == (0, 0)


def test_what_is_missing_or_there_twice_is_counted(tmp_path: Path) -> None:
    made = stage(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "run")
    folder = tmp_path / "run/label_comparisons"
    shutil.copy(folder / made.manifest.files[0].name, folder / "part-other.parquet")
    base, run = Storage(str(tmp_path / "base")), Storage(str(tmp_path / "run"))
    doubled = made.manifest.files[0].num_rows
    assert lost_and_doubled(run, base) == (0, doubled)
    (folder / "part-other.parquet").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    lost = sum(file["num_rows"] for file in manifest["dropped_files"])
    (folder / "manifest.json").write_text(json.dumps({**manifest, "dropped_files": []}))
    assert lost_and_doubled(run, base) == (lost, 0)
    shutil.rmtree(folder)
    assert lost_and_doubled(run, base) == (4, 0)


def test_steps_of_a_training_are_counted_by_their_lines(tmp_path: Path) -> None:
    lines = [{"step": step, "num_steps": 4} for step in (1, 2, 3, 3, 4)]
    lines += [{"step": 4, "num_steps": 4, "eval_loss": 1.0}, {"event": "resumed", "step": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert num_repeated(step_entries(Storage(str(tmp_path)))) == 1


def test_repetitions_are_kept_beside_each_other(tmp_path: Path) -> None:
    first, *others = chaos.FAULTS
    for lost in (0, 2):
        chaos.keep(first, Outcome(lost, 0, 3, 60, "requests", 1.5, (75, 0)), tmp_path)
    chaos.keep(others[0], Outcome(0, 1, 0, 60, "requests", 1.5, (0,)), tmp_path)
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert [len(fault["runs"]) for fault in found["faults"]] == [2, 1]
    assert found["lost_rows"] == {"value": 2, "target": 0, "met": False}
    assert found["doubled_rows"]["value"] == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_fault_is_injected_and_measured(tmp_path: Path) -> None:
    fault = "the driver killed, the command given again"
    words = ["--only", fault, "--times", "1", "--folder", str(tmp_path / "work"), "--results", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.chaos", *words], cwd=ROOT, timeout=400)
    assert done.returncode == 0
    [found] = json.loads((tmp_path / "chaos.json").read_text())["faults"]
    [run] = found["runs"]
    assert (run["lost"], run["doubled"], run["codes"]) == (0, 0, [-9, 0]) and 0 < run["repeated"] < run["of"]
