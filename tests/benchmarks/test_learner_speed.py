"""The learners' benchmark where Ray, vLLM and DeepSpeed cannot be imported: the tiny shape, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import runpy, sys

for name in ("ray", "vllm", "deepspeed", "trl"):
    sys.modules[name] = None  # neither found nor imported
runpy.run_module("benchmarks.learner_speed", run_name="__main__")
"""


@pytest.mark.slow
def test_it_runs_without_ray_vllm_and_deepspeed(tmp_path: Path) -> None:
    output = tmp_path / "speed.json"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "--smoke", "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    kinds = {"sft": 5, "preference": 4, "ppo": 4}
    for kind, num in kinds.items():
        measured = {name: cell for name, cell in found["cells"].items() if f"/{kind}/" in name}
        assert len(measured) == num
        assert all(cell["tokens_per_s"] > 0 for cell in measured.values()), measured
    curves = found["loss_curves"]
    assert curves["float32"][-1] < curves["float32"][0]
    assert curves["largest_gap"] < 0.2
    assert found["ratios"]["tiny"]["sft_to_stock_trainer"] > 0
    assert found["machine"]["gpu"] is None and found["device"] == "CPU"
