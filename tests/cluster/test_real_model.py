"""The recipe of a real model, 16 real conversations from the first stage to the report; weights from the registry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_model.weights import model_folder
from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONVERSATIONS = ROOT.parent / "shared" / "data" / "hh_rlhf" / "harmless-base-test.jsonl.gz"
STAGES = (
    "load_prompts", "revise", "train_sft", "sample_pairs", "label_comparisons", "train_preference_model",
    "score_rounds", "train_ppo", "evaluate", "report",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def model() -> str:
    try:
        return model_folder()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(not CONVERSATIONS.is_file(), reason=f"hh-rlhf is not at {CONVERSATIONS}")
def test_sixteen_prompts_go_through_the_whole_recipe(model: str, tmp_path: Path) -> None:
    changes = {
        "name": "real",
        "output": str(tmp_path),
        "models.policy.path": model,
        "prompts.sources": f"[{{path: {CONVERSATIONS}, layout: hh_rlhf, limit: 16, test_fraction: 0.25}}]",
        "ppo.num_steps": "1",
        "ppo.prompts_per_step": "4",
        "ppo.optim.batch_size": "4",
        "labels.tie_margin": "0",
    }
    command = [sys.executable, "-m", "cai_ray.cli", "run", "smollm2-135m"]
    for name, value in changes.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        found = find(Storage(str(tmp_path / "real" / stage)))
        assert found is not None, f"{stage} did not finish"
        manifest = found.manifest
        gone = sum(manifest.rows_dropped.values()) + sum(manifest.rows_left_out.values())
        assert manifest.rows_in == manifest.rows_out + gone, stage
    summary = json.loads((tmp_path / "real" / "revise" / "summary.json").read_text())
    assert -2.5 < summary["logprobs"]["answer"]["mean"] < 0, "the model does not understand itself"
    page = (tmp_path / "real" / "report" / "report.html").read_text()
    assert "Harm was not measured." in page
    assert subprocess.run(command, capture_output=True).returncode == 0, "a finished run is a no-op"
