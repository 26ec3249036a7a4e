"""The table of faults, one entry per fault and repetition; see the package."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.chaos import clusters, drivers, stages
from benchmarks.chaos.counting import Outcome
from tests.conftest import ROOT

TIMES = 3
FAULTS: dict[str, Callable[[Path], Outcome]] = {**stages.KILLED, **drivers.FAULTS, **clusters.FAULTS}
REAL = set(stages.KILLED)  # vLLM and Ray Train on the micro model
CLAIM = "No fault loses a row or doubles one."


def entries(results: Path) -> dict[str, list[dict[str, Any]]]:
    """fault -> what each repetition so far cost."""
    path = results / "chaos.json"
    found = json.loads(path.read_text())["faults"] if path.exists() else []
    return {fault["injected"]: fault["runs"] for fault in found}


def keep(fault: str, outcome: Outcome, results: Path) -> None:
    """Several processes may do different faults at once, hence the lock."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".chaos.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = entries(results)
        done.setdefault(fault, []).append(dataclasses.asdict(outcome))
        runs = [run for one in done.values() for run in one]
        figures = {
            "faults": [
                {"injected": name, "engine": "vLLM and Ray Train" if name in REAL else "scripted", "runs": done[name]}
                for name in FAULTS
                if name in done
            ],
            **{
                f"{what}_rows": {"value": total, "target": 0, "met": total == 0}
                for what in ("lost", "doubled")
                for total in [sum(run[what] for run in runs)]
            },
        }
        results_file.write("chaos", CLAIM, figures, [stages.RECIPE["seed"], 5], results)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--folder", type=Path, help="of the runs without faults, which are made once")
    parser.add_argument("--results", type=Path, default=results_file.RESULTS)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # commands that were started end, too
    folder = arguments.folder or Path(tempfile.gettempdir()) / f"cai-ray-chaos-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, fault in itertools.product(range(arguments.times), arguments.only):
        if fault in failed or len(entries(arguments.results).get(fault, [])) > number:
            continue
        began = time.monotonic()
        try:
            outcome = FAULTS[fault](folder)
        except Exception:
            traceback.print_exc()
            failed.append(fault)
            continue
        keep(fault, outcome, arguments.results)
        print(f"{fault}: {outcome}, {time.monotonic() - began:.0f} s", flush=True)
    if arguments.folder is None and not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
