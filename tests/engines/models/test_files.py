"""Model paths: hub ids and folders as they are, URIs downloaded once per content."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import ModelConfig
from cai_ray.engines.models.files import local_folder, localised
from cai_ray.errors import ConfigError


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAI_RAY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1234")
    return folder


def test_hub_ids_and_local_folders_stay(tmp_path: Path) -> None:
    assert local_folder("org/name") == "org/name"
    assert local_folder(str(tmp_path)) == str(tmp_path)


def test_a_uri_is_downloaded_once_and_again_when_its_files_change(remote: Path) -> None:
    first = Path(local_folder(remote.as_uri()))
    assert {file.name for file in first.iterdir()} == {"config.json", "model.safetensors"}
    assert (first / "model.safetensors").read_bytes() == b"1234"
    stamp = (first / "config.json").stat().st_mtime_ns
    assert localised(ModelConfig(path=remote.as_uri())).path == str(first)
    assert (first / "config.json").stat().st_mtime_ns == stamp
    (remote / "model.safetensors").write_bytes(b"12345")
    assert Path(local_folder(remote.as_uri())) != first


def test_engines_that_start_together_on_a_node_download_once(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy = shutil.copyfileobj

    def slowly(source: Any, target: Any, size: int) -> None:
        copied.append(target.name)
        time.sleep(0.1)
        copy(source, target, size)

    monkeypatch.setattr(shutil, "copyfileobj", slowly)
    with ThreadPoolExecutor(4) as engines:
        assert len(set(engines.map(local_folder, [remote.as_uri()] * 4))) == 1
    assert len(copied) == 2, "config.json and the weights"


def test_what_a_killed_download_left_is_not_taken(remote: Path) -> None:
    first = Path(local_folder(remote.as_uri()))
    first.rename(first.with_suffix(".partial"))
    (first.with_suffix(".partial") / "model.safetensors").write_bytes(b"1")
    assert (Path(local_folder(remote.as_uri())) / "model.safetensors").read_bytes() == b"1234"


def test_an_empty_location_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no files"):
        local_folder((tmp_path / "nothing").as_uri())
