"""What it takes to plan what is left of a large stage, with nine tenths of its rows committed, and to check its end.

Rows of PAYLOAD_BYTES that do not compress, in parts of ROWS_PER_PART: every byte is read and hashed, as a resume does.
A line through what was measured says what 100 million rows take; more bytes a row take longer to read, and no memory.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import results_file
from cai_ray.artifacts.artifact import Artifact, OpenStage, StageSpec, check_conservation, open_stage
from cai_ray.artifacts.parts import committed_parts, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED
from cai_ray.engines.conversations.units import left_of, units_of
from cai_ray.row_ids import RowIds
from cai_ray.rows import ROW_ID

MANY = 100_000_000
SIZES = (3_000_000, 10_000_000, 30_000_000)
TARGETS = {"seconds": 600, "gib": 8}
PAYLOAD_BYTES = 256
ROWS_PER_PART = 8_192
IDS = RowIds(("id",))


@dataclasses.dataclass(frozen=True)
class Resume:
    """Planning what is left of a stage with nine tenths of its rows committed, and checking it all at its end."""

    num_rows: int
    plan_s: float
    check_s: float
    peak_gib: float


def measured(num_rows: int) -> Resume:
    """In a process of its own, whose peak of memory is its own."""
    with tempfile.TemporaryDirectory() as scratch:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        for work in (_make, _plan):
            process = multiprocessing.get_context("spawn").Process(target=work, args=(scratch, num_rows, sender))
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{work.__name__} of {num_rows} rows ended with {process.exitcode}")
        found: Resume = receiver.recv()
    return found


def _stage(scratch: str, name: str) -> OpenStage:
    opened = open_stage(StageSpec(Storage(f"{scratch}/{name}"), name, "f", {}, {}, IDS))
    assert isinstance(opened, OpenStage)
    return opened


def _make(scratch: str, num_rows: int, sender: Any) -> None:
    """The input's rows, committed, and nine tenths of the output's as parts."""
    source, output = _stage(scratch, "source"), _stage(scratch, "output")
    noise = np.random.default_rng(0)
    for start in range(0, num_rows, ROWS_PER_PART):
        names = [_id(k) for k in range(start, min(start + ROWS_PER_PART, num_rows))]
        write_part(source.folder, pa.table({"id": names}), DROPPED.empty_table(), names)
        if start < num_rows * 0.9:
            payload = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(PAYLOAD_BYTES), len(names), [None, pa.py_buffer(noise.bytes(PAYLOAD_BYTES * len(names)))]
            )
            write_part(output.folder, pa.table({"id": names, "text": payload}), DROPPED.empty_table(), names)
    parts, ids = committed_parts(source.folder, IDS)
    del parts
    source.commit(ids)


def _id(k: int) -> str:
    return f"{k * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}/0"  # as a hash: no two alike, in no order


def _expanded(table: pa.Table) -> pa.Table:
    return table.append_column(ROW_ID, table["id"])


def _plan(scratch: str, num_rows: int, sender: Any) -> None:
    began = time.monotonic()
    opened = _stage(scratch, "output")
    units = units_of(Artifact(Storage(f"{scratch}/source")), ("id",), _expanded)
    left = left_of(units, opened.done_ids)
    plan_s = time.monotonic() - began
    num_left = sum(file.num_left for file in left)
    assert len(opened.done_ids) + num_left == num_rows, (len(opened.done_ids), num_left)
    began = time.monotonic()
    check_conservation(opened.done_ids, opened.done_ids, "output")
    check_s = time.monotonic() - began
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sender.send(Resume(num_rows, round(plan_s, 2), round(check_s, 2), round(peak_gib, 3)))


def extrapolated(resumes: list[Resume]) -> dict[str, Any]:
    """A line through what was measured, in seconds and GiB per row."""
    rows = np.array([one.num_rows for one in resumes], float)
    names = ("plan_s", "check_s", "peak_gib")
    fits = {name: np.polyfit(rows, [getattr(one, name) for one in resumes], 1) for name in names}
    at = {name: float(np.polyval(fit, MANY)) for name, fit in fits.items()}
    lines = {
        name: {"per_million_rows": round(float(fit[0]) * 1e6, 4), "fixed": round(float(fit[1]), 4)}
        for name, fit in fits.items()
    }
    return {
        "measured": [vars(one) for one in resumes],
        "fit": lines,
        "plan_of_100m_rows_s": {"value": round(at["plan_s"]), "target": TARGETS["seconds"]},
        "peak_of_100m_rows_gib": {"value": round(at["peak_gib"], 2), "target": TARGETS["gib"]},
        "check_of_100m_rows_s": round(at["check_s"]),
    }


def main(sizes: tuple[int, ...] = SIZES) -> None:
    found = []
    for num_rows in sizes:
        found.append(measured(num_rows))
        print(found[-1], flush=True)
    claim = "a resume of 100 million rows is planned within 10 minutes and 8 GiB"
    figures = {"payload_bytes": PAYLOAD_BYTES, "rows_per_part": ROWS_PER_PART, **extrapolated(found)}
    results_file.write("resume", claim, figures, [0])


if __name__ == "__main__":
    main(tuple(int(number) for number in sys.argv[1:]) or SIZES)
