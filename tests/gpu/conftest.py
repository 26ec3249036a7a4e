"""Checks that need GPUs: the one folder whose tests may be skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def num_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Called with the tests of every folder; only those of this one are looked at."""
    ours = [item for item in items if HERE in item.path.parents]
    if not ours:
        return
    present = num_gpus()
    for item in ours:
        marker = item.get_closest_marker("gpus")
        needed = marker.args[0] if marker else 1
        if present < needed:
            item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA GPUs, this machine has {present}"))
