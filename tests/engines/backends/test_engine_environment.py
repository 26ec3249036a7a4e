"""The variables of an engine's process: threads by the size of the model, and how long they wait for each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cai_ray.config import ModelConfig
from cai_ray.engines.backends.vllm_engine import engine_environment
from cai_ray.engines.models.files import SMALL_WEIGHTS_BYTES, has_small_weights


def model_of(folder: Path, num_bytes: int) -> ModelConfig:
    """Weights of a size, without a disk that holds them."""
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(num_bytes)
    return ModelConfig(path=str(folder))


@pytest.mark.parametrize(("num_bytes", "is_small"), [(SMALL_WEIGHTS_BYTES - 1, True), (SMALL_WEIGHTS_BYTES, False)])
def test_a_small_model_has_one_thread(tmp_path: Path, num_bytes: int, is_small: bool) -> None:
    model = model_of(tmp_path, num_bytes)
    assert has_small_weights(model.path) is is_small
    assert engine_environment(model)["OMP_NUM_THREADS"] == ("1" if is_small else str(os.cpu_count()))


@pytest.mark.parametrize("path", ["HuggingFaceTB/SmolLM2-135M-Instruct", "."])
def test_weights_that_are_not_seen_are_not_small(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not has_small_weights(path)


def test_threads_spin_for_a_while_unless_the_user_says_how_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tmp_path, 1)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    found = engine_environment(model)
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert int(found["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    found = engine_environment(model)
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in found
