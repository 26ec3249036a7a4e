"""What travels with a job: the recipe and the files it names, where it looks for them; nothing else, and no secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cai_ray.errors import ConfigError
from cai_ray.lookup import location
from cai_ray.pipeline.recipe import load
from cai_ray.submission import parcel
from cai_ray.submission.parcel import pack
from tests.runs import merged, saying, write_jsonl


def write(folder: Path, **changes: Any) -> Path:
    sections = {"name": "run", "output": "s3://bucket/runs", "prompts": {"path": "data/*.jsonl", "layout": "messages"}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(merged(sections, changes)), encoding="utf-8")
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    home = tmp_path / "project"
    (home / "data").mkdir(parents=True)
    for name in ("a", "b"):
        write_jsonl(home / "data" / f"{name}.jsonl", [saying("Which hat?")])
    for junk in (".env", "secrets.txt", "data/.hidden", "unnamed.jsonl"):
        (home / junk).write_text("KEY=canary")
    return home


def test_only_what_the_recipe_names_travels(project: Path, tmp_path: Path) -> None:
    recipe, name = pack(str(write(project)), ["prompts.limit=3"], tmp_path / "parcel")
    assert name == "recipe.yaml"
    assert files(tmp_path / "parcel") == ["data/a.jsonl", "data/b.jsonl", "recipe.yaml"]
    there = load(tmp_path / "parcel" / name)
    assert there.model_copy(update={"folder": ""}) == recipe.model_copy(update={"folder": ""})
    assert there.prompts.limit == 3 and there.folder == str(tmp_path / "parcel")


def test_names_that_lead_up_and_folders_keep_their_place(project: Path, tmp_path: Path) -> None:
    model = project / "models" / "small"
    (model / ".git").mkdir(parents=True)
    for name in ("config.json", ".git/config", "server.key"):
        (model / name).write_text("{}")
    path = write(
        project / "recipes" / "mine",
        prompts={"path": "../../data/a.jsonl"},
        models={"policy": {"path": "../../models/small"}},
    )
    _, name = pack(str(path), [], tmp_path / "parcel")
    assert files(tmp_path / "parcel") == ["data/a.jsonl", "models/small/config.json", f"{'recipe/' * 2}recipe.yaml"]
    there = load(tmp_path / "parcel" / name)
    assert Path(location(there.prompts.path)).is_file() and Path(location(there.models["policy"].path)).is_dir()


def test_what_is_found_in_the_working_directory_lies_beside_the_recipe(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    pack(str(write(tmp_path / "elsewhere")), [], tmp_path / "parcel")
    assert files(tmp_path / "parcel") == ["data/a.jsonl", "data/b.jsonl", "recipe.yaml"]


def test_a_recipe_that_comes_along_travels_as_a_file(tmp_path: Path) -> None:
    recipe, _ = pack("quickstart", ["output=/srv/runs"], tmp_path / "parcel")
    assert files(tmp_path / "parcel") == ["recipe.yaml"] and recipe.output == "/srv/runs"


def test_hub_ids_uris_and_absolute_paths_stay_what_they_are(project: Path, tmp_path: Path) -> None:
    path = write(project, prompts={"path": str(project / "data" / "a.jsonl")}, models={"policy": {"path": "org/model"}})
    pack(str(path), [], tmp_path / "parcel")
    assert files(tmp_path / "parcel") == ["recipe.yaml"]


def test_what_is_too_large_is_refused_by_name(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 10)
    with pytest.raises(ConfigError, match=r"'data/\*\.jsonl' is too large to travel .*absolute path, by its URI"):
        pack(str(write(project)), [], tmp_path / "parcel")


@pytest.mark.parametrize("output", ["runs", "./runs"])
def test_a_relative_output_is_refused(output: str, project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is relative, and a job has no folder of its own"):
        pack(str(write(project)), [f"output={output}"], tmp_path / "parcel")
