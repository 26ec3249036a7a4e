"""What a run left against what it should have left, and what it did twice; from files alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cai_ray import row_ids
from cai_ray.artifacts.artifact import MANIFEST, Artifact
from cai_ray.artifacts.files import damage
from cai_ray.artifacts.metrics_file import METRICS, parse_metrics, read_metrics
from cai_ray.artifacts.parts import DROPPED_ROWS, LEFT_OUT_ROWS, read_table
from cai_ray.artifacts.storage import Storage
from cai_ray.row_ids import RowIds
from cai_ray.rows import ROW_ID
from cai_ray.seeding import stable_id
from cai_ray.stages.exports import EXPORTS

KNOWN_IDS = tuple(value for value in vars(row_ids).values() if isinstance(value, RowIds))
Seen = Callable[[], list[str]]  # every request that reached an engine so far, as a key that a repetition has too


@dataclass(frozen=True)
class Outcome:
    """What one fault cost.

    Attributes:
        lost: rows, and steps of a training, that a run without the fault has and this one has not.
        doubled: rows that a reader of the run's files finds more than once, or that no run should have.
        repeated: requests to engines, or steps of a training, that were done again.
        of: requests or steps of a run without the fault.
        unit: what is counted in these two.
        recovery_s: from the fault until work goes on: the first request that is asked, or step that is done, again.
        codes: exit codes of the commands, in their order.
    """

    lost: int
    doubled: int
    repeated: int
    of: int
    unit: str
    recovery_s: float
    codes: tuple[int, ...]


def num_repeated(keys: Iterable[object]) -> int:
    return sum(count - 1 for count in Counter(keys).values())


def lost_and_doubled(found: Storage, expected: Storage) -> tuple[int, int]:
    """Over every artifact of a run, inner ones too, against those of a run without faults. `expected` is local."""
    lost = doubled = 0
    for name in artifacts_of(expected):
        lost_here, doubled_here = _compared(found / name, Artifact(expected / name))
        lost, doubled = lost + lost_here, doubled + doubled_here
    return lost, doubled


def artifacts_of(run: Storage) -> list[str]:
    """Folders below a local run that hold a finished stage, or a finished piece of one."""
    root = Path(run.path())
    names = (str(path.parent.relative_to(root)) for path in root.rglob(MANIFEST))
    return sorted(name for name in names if not name.startswith(EXPORTS))


def _compared(folder: Storage, expected: Artifact) -> tuple[int, int]:
    ids_of = _row_ids(expected)
    wanted = Counter(ids(expected.folder, _committed(expected), ids_of))
    if not folder.exists(MANIFEST):
        return len(wanted), 0
    made = Artifact(folder)
    committed = Counter(ids(folder, _committed(made), ids_of))
    there = Counter(ids(folder, _parts_in(folder), ids_of))  # what a reader of the folder finds
    lost = len(wanted - committed) + len(steps_of(expected.folder) - steps_of(folder))
    if expected.manifest.model_files:
        lost += not made.manifest.model_files or damage(folder, made.manifest.model_files) is not None
    return lost, num_repeated(there.elements()) + len(set(there) - set(wanted))


def _committed(artifact: Artifact) -> list[str]:
    manifest = artifact.manifest
    return [file.name for file in (*manifest.files, *manifest.dropped_files, *manifest.left_out_files)]


def _parts_in(folder: Storage) -> list[str]:
    return [name for below in ("", DROPPED_ROWS, LEFT_OUT_ROWS) for name in folder.names(below, ".parquet")]


def ids(folder: Storage, files: Iterable[str], ids_of: RowIds) -> list[str]:
    """Of the rows in these files, those that were dropped and left out too."""
    found: list[str] = []
    for name in files:
        columns, read = ((ROW_ID,), _dropped_ids) if "/" in name else (ids_of.columns, ids_of)
        found += read(read_table(folder, name, columns)).to_pylist()
    return found


def _dropped_ids(table: pa.Table) -> pa.Array:
    return table[ROW_ID].combine_chunks()


def _row_ids(artifact: Artifact) -> RowIds:
    """What tells its rows apart: of what is known the one that its parts' names are made of. It had no fault."""
    folder = artifact.folder
    for name in (file.name for file in artifact.manifest.files):
        part = Path(name).name
        gone = [f"{below}/{part}" for below in (DROPPED_ROWS, LEFT_OUT_ROWS) if folder.exists(f"{below}/{part}")]
        columns = set(read_table(folder, name).column_names)
        for known in KNOWN_IDS:
            if columns.issuperset(known.columns):
                units = ids(folder, [name, *gone], known)
                if part == f"part-{stable_id(*sorted(units))}.parquet":
                    return known
    return RowIds((ROW_ID,))  # nothing came out


def step_entries(folder: Storage) -> list[tuple[int, bool]]:
    """(step, whether it is an evaluation) of every line that a training wrote of a step, in their order."""
    found = parse_metrics(read_metrics(folder)) if folder.exists(METRICS) else []
    return [(entry["step"], "eval_loss" in entry) for entry in found if "num_steps" in entry]


def steps_of(folder: Storage) -> set[tuple[int, bool]]:
    return set(step_entries(folder))


def lines_of(path: Path) -> list[str]:
    """The whole lines of a file that another process writes."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def asked_lines(path: Path) -> list[str]:
    """The keys of requests that a FakeServer wrote to a file, a line of JSON each."""
    return [asked_key(json.loads(line)) for line in lines_of(path) if line.startswith("{")]


def asked_key(body: dict[str, object]) -> str:
    return json.dumps([body["messages"], body.get("seed")])
