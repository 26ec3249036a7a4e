"""Where a recipe's names are looked for, and that they stay names wherever they are found."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai_ray.config import Config, ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import settings
from cai_ray.lookup import FOLDER, InputFile, InputFolder, InputPath, Located, location, searched, without_keys
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.model_names import named_model
from cai_ray.pipeline.recipe import dump, load
from cai_ray.pipeline.steps import steps
from cai_ray.stages.inputs.load_prompts import run as load_prompts

PROMPT = '{"prompt": "How do I paint a chair?"}\n'
SERVER = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}


class Names(Config):
    path: InputPath = "microworld"
    file: InputFile | None = None
    folder: InputFolder | None = None


def names(beside: Path, /, **given: str) -> Names:
    return Names.model_validate(given, context={FOLDER: str(beside)})


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files beside a recipe; the working directory is another."""
    here, elsewhere = tmp_path / "experiment", tmp_path / "elsewhere"
    (here / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    (here / "deep" / "a.jsonl").write_text(PROMPT)
    monkeypatch.chdir(elsewhere)
    return here


def test_the_recipes_folder_comes_first_then_the_working_directory(beside: Path) -> None:
    assert location(names(beside, path="deep/a.jsonl").path) == str(beside / "deep/a.jsonl")
    assert location(names(beside, path="deep/*.jsonl").path) == str(beside / "deep/*.jsonl")
    assert location(names(beside, path="deep").path) == str(beside / "deep")
    assert location(names(beside, path="b.jsonl").path) == "b.jsonl"
    assert location(names(beside).path) == "microworld"
    for elsewhere in (str(beside / "deep"), "s3://bucket/deep", "hf://deep"):
        found = names(beside, path=elsewhere)
        assert not isinstance(found.path, Located) and location(found.path) == elsewhere


def test_a_home_directory_is_written_out(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(beside))
    assert location(names(beside, path="~/deep/a.jsonl").path) == str(beside / "deep/a.jsonl")
    assert str(beside / "none") in searched("~/none")


def test_a_file_is_no_folder(beside: Path) -> None:
    assert location(names(beside, file="deep").file or "") == "deep", "a constitution's name beside a folder so called"
    assert location(names(beside, folder="deep/a.jsonl").folder or "") == "deep/a.jsonl"
    (beside / "harmlessness").mkdir()
    found = names(beside, file="harmlessness", folder="deep")
    assert found.file is not None and location(found.file) == "harmlessness"
    assert found.folder is not None and location(found.folder) == str(beside / "deep")


def test_a_name_stays_a_name_and_keeps_its_place(beside: Path) -> None:
    found = names(beside, path="deep/a.jsonl")
    assert found == Names(path="deep/a.jsonl") and hash(found.path) == hash("deep/a.jsonl")
    assert settings(found)["path"] == "deep/a.jsonl" and type(settings(found)["path"]) is str
    assert json.loads(found.model_dump_json())["path"] == "deep/a.jsonl"
    assert yaml.safe_load(yaml.safe_dump(found.model_dump(mode="json")))["path"] == "deep/a.jsonl"
    for again in (pickle.loads(pickle.dumps(found)), Names.model_validate(found.model_dump())):
        assert location(again.path) == str(beside / "deep/a.jsonl")


def test_an_error_says_where_it_was_looked_for(beside: Path) -> None:
    told = searched(names(beside, path="b.jsonl").path)
    assert f"in {beside}, where the recipe is, then in {Path.cwd()}" in told
    assert searched("b.jsonl") == f"looked for it in {Path.cwd()}, the working directory"
    assert searched("/a/b.jsonl") == "looked for it at /a/b.jsonl"


# --- Through a recipe ------------------------------------------------------------------------------------


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe that names every kind of input, all beside it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in ("prompts.jsonl", "more.jsonl"):
        (folder / "data" / name).write_text(PROMPT.replace("chair", name))
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    (folder / "references.jsonl").write_text(json.dumps({"prompt": "a", "reference": "b"}) + "\n")
    (folder / "question.txt").write_text("{generation} {behavior}")
    (folder / "rules.yaml").write_text(
        "name: rules\nversion: '1'\nprinciples:\n"
        "  - {id: kind, critique_request: c, revision_request: r, comparison_question: q}\n"
    )
    data: dict[str, Any] = {
        "name": "test",
        "output": "runs",
        "constitution": "rules.yaml",
        "models": {"policy": {"endpoint": SERVER}, "judge": {"path": "judge", "endpoint": SERVER}},
        "prompts": {"sources": [{"path": "data/*.jsonl"}]},
        "sft": {"model": "policy"},
        "pairs": {},
        "labels": {},
        "preference_model": {"model": "policy", "helpful_pairs": [{"path": "pairs.jsonl"}]},
        "evaluate": {
            "policies": ["policy"],
            "judges": [
                {"kind": "similarity", "model": "judge", "references": "references.jsonl"},
                {"kind": "yes_no", "model": "judge", "name": "asked", "template": "question.txt"},
            ],
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**data, **changes}))
    return path


def fingerprints(path: Path | str) -> dict[str, str]:
    recipe = load(path)
    return dict(pipeline.prepare(recipe, steps(recipe)).fingerprints)


def test_a_recipe_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path / "experiment")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(path.parent)
    at_home = fingerprints("recipe.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fingerprints(path) == at_home
    assert (tmp_path / "elsewhere" / "runs" / "test").is_dir(), "output is relative to the working directory"
    recipe = load(path)
    artifact = load_prompts(recipe.prompts, pipeline.prepare(recipe, steps(recipe)))
    assert sorted(row["source_row"] for row in artifact.rows()) == ["data:0", "data:1"], "the ids that it has at home"
    (path.parent / "pairs.jsonl").write_text("{}\n")
    assert fingerprints(path)["train_preference_model"] != at_home["train_preference_model"], "the file is read there"


def test_what_a_run_keeps_finds_its_inputs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path / "experiment")
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "recipe.json"
    kept.write_text(load(path).model_dump_json())
    assert fingerprints(kept) == fingerprints(path)
    other = tmp_path / "other.yaml"
    other.write_text(dump(load(path)))
    assert load(other).folder == str(path.parent) and fingerprints(other) == fingerprints(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompts": {"path": "nowhere.jsonl"}}, "nowhere.jsonl does not exist"),
        ({"constitution": "nowhere.yaml"}, "there is no such file"),
        pytest.param(
            {"models": {"policy": {"path": "nowhere"}}, "evaluate": None},
            "no tokenizer at 'nowhere'",
            marks=pytest.mark.slow,  # imports transformers
        ),
        ({"evaluate": {"judges": [{"kind": "similarity", "model": "policy", "references": "x"}]}}, "is not there"),
    ],
)
def test_what_is_nowhere_is_told_with_both_places(
    changes: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write_recipe(tmp_path / "experiment", **changes)
    monkeypatch.chdir(tmp_path)
    recipe = load(path)
    with pytest.raises(ConfigError) as error:
        steps(recipe)[0].run(pipeline.prepare(recipe, steps(recipe)))
    assert told in str(error.value)
    assert f"in {path.parent}, where the recipe is, then in {tmp_path}" in str(error.value)


def test_a_model_of_a_recipe_is_named_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "experiment"
    for name in ("models/base", "tokenizer"):
        (folder / name).mkdir(parents=True)
    (folder / "chat.jinja").write_text("{{ messages }}")
    model = {"path": "models/base", "tokenizer": "tokenizer", "chat_template": "chat.jinja"}
    path = write_recipe(folder, models={"policy": model})
    monkeypatch.chdir(tmp_path)
    _, found = named_model(f"{path}:policy")
    assert found == ModelConfig(
        path=str(folder / "models/base"), tokenizer=str(folder / "tokenizer"), chat_template=str(folder / "chat.jinja")
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("output 's3://key:se/cr:et@bucket/runs' is wrong", "output 's3://bucket/runs' is wrong"),
        ("s3://b/runs?region=x&secret_key=hush&access_key=hush", "s3://b/runs?region=x&secret_key=...&access_key=..."),
        (
            '{"output": "abfs://me:hush@host/c/r?sv=1&sig=a%2Bb", "n": 1}',
            '{"output": "abfs://host/c/r?sv=1&sig=...", "n": 1}',
        ),
        ("run --set=output=gs://k:hush@b/r", "run --set=output=gs://b/r"),
    ],
)
def test_keys_in_uris_are_left_out(text: str, told: str) -> None:
    assert without_keys(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/runs?enable_tls=false",
        "hdfs://namenode:8020/user/me@work/runs",
        "what is a key? secret=none, user:me@home",
        "http://10.0.0.1:8265 and me@example.com",
    ],
)
def test_what_is_no_key_is_left_as_it_is(text: str) -> None:
    assert without_keys(text) == text
