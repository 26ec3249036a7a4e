"""`make bench`: run the benchmarks, each in a process of its own, and print what came out.

`benchmarks.paper_findings` takes hours and is run by itself, as are `benchmarks.studies` and `benchmarks.real_model`.
`benchmarks.chaos` keeps what it has measured: delete its result file to have it measured again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results_file import RESULTS

NAMES = (
    "microworld_revision",
    "meta_commentary",
    "microworld_policies",
    "revise_speed",
    "prefill_under_full_cache",
    "row_overhead",
    "resume",
    "scale",
    "label_speed",
    "sft_speed",
    "ppo_speed",
    "small_run",
    "abliteration",
    "plan_tokens",
    "bad_inputs",
    "chaos",
)


def _figures(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, measured, target) of every figure that has a target."""
    found = []
    for name, value in content.items():
        if isinstance(value, dict) and "target" in value:
            measured = {key: number for key, number in value.items() if key != "target"}
            found.append((prefix + name, json.dumps(measured), str(value["target"])))
        elif isinstance(value, dict):
            found += _figures(value, f"{prefix}{name}.")
    return found


def main() -> int:
    failed = []
    for name in sys.argv[1:] or NAMES:
        started = time.monotonic()
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    table = Table(title="Benchmarks")
    for column in ("benchmark", "figure", "measured", "target"):
        table.add_column(column, overflow="fold")
    for path in sorted(RESULTS.glob("*.json")):
        for figure, measured, target in _figures(json.loads(path.read_text())):
            table.add_row(path.stem, figure, measured, target)
    Console().print(table)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
