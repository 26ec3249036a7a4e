"""Result files: figures with the machine, versions and seeds they were measured with."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from cai_ray.artifacts.artifact import now, versions
from cai_ray.metrics.intervals import Estimate

RESULTS = Path(__file__).parent / "results"


def write(
    name: str,
    claim: str,
    figures: dict[str, Any],
    seeds: Sequence[int],
    folder: Path = RESULTS,
    command: str | None = None,
) -> Path:
    """Write `results/<name>.json`. `figures` holds what was measured and, where there is one, `target` and `met`.

    `command`: what measured it; null: the module of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
        "claim": claim,
        "command": command or f"python -m benchmarks.{name}",
        "measured_at": now(),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": _gpu_name(),
        },
        "versions": versions(),
        "seeds": list(seeds),
        **figures,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _gpu_name() -> str | None:
    """Of what was measured on a GPU: torch is loaded then."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def rounded(found: Estimate | None) -> dict[str, float] | None:
    """An estimate with its interval."""
    return None if found is None else {name: round(value, 4) for name, value in found.model_dump().items()}


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Minimum, median and maximum."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}
