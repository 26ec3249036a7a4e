"""`cai-ray microworld build`: seed 0 from the package, any seed anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.microworld import pretrain


def test_the_cache_a_folder_and_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def note(path: Path, seed: int, config: object = None) -> Path:
        asked.append((path.name, seed))
        path.mkdir(parents=True)
        return path

    monkeypatch.setattr(pretrain, "build", note)
    monkeypatch.setenv("CAI_RAY_CACHE", str(tmp_path))

    def made(*options: str) -> Path:
        result = CliRunner().invoke(app, ["microworld", "build", *options])
        assert result.exit_code == 0, result.output
        return Path(result.output.strip())

    cached = made()
    assert (cached / "model.safetensors").is_file() and not asked
    assert made("-o", str(tmp_path / "own")) == tmp_path / "own" and asked == [("own", 0)]
    assert made("--seed", "3") != cached and asked[-1][1] == 3
    assert made("--fresh") == cached and asked[-1] == (f"{cached.name}.fresh", 0)
