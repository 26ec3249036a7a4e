"""Published data sets, which are not part of the repository: they add to what the made-up rows cover."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "shared" / "data"


def published(name: str) -> Path:
    """The file or folder `name`, e.g. "cai_paper"; the test is skipped where it is not at hand."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path
