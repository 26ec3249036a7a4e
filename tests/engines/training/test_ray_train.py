"""What a training worker's process is told about memory."""

from __future__ import annotations

import pytest

from cai_ray.engines.training.ray_train import KEEPING, memory_kept


def test_memory_is_kept_from_step_to_step_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEEPING:
        monkeypatch.delenv(name, raising=False)
    assert memory_kept() == KEEPING
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert memory_kept() == KEEPING | {"MALLOC_ARENA_MAX": "8"}
