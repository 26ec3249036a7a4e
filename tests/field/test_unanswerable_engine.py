"""A model that the engine loads and cannot run: two starts, then its own last error and the true place of its log."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.runs import cli, saying, write_jsonl, write_recipe
from tests.tiny_models import byte_tokenizer, save_llama

pytestmark = pytest.mark.slow
LIMIT_S = 240  # a minute on a machine of its own


def test_two_starts_and_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 1024}
    model = save_llama(tmp_path / "model", byte_tokenizer(), **sizes)  # heads of 16, which vLLM has no kernel for
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [saying(f"How do I fold {k} napkins?") for k in range(8)])
    ray_folder = tempfile.mkdtemp(prefix="r")  # short: sockets lie below it
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    monkeypatch.setenv("COLUMNS", "300")
    begun = time.monotonic()
    done = subprocess.run(cli(write_recipe(tmp_path, model, prompts)), capture_output=True, text=True, timeout=LIMIT_S)
    print(f"ended after {time.monotonic() - begun:.0f} s")
    assert done.returncode == 2, done.stderr
    assert "the engine starts but answers no request" in done.stderr and "head_dim=16" in done.stderr
    assert "Traceback" not in done.stderr and "File " not in done.stderr
    named = [Path(name) for name in re.findall(r"/\S+worker-\S+\.(?:out|err)", done.stderr)]
    assert named and all(str(path).startswith(ray_folder) for path in named)
    said = "".join(path.read_text() for path in named)
    assert said.count("Loading safetensors checkpoint shards: 100%") == 2, "starts"
