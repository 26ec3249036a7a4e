"""The facts of this machine without a cluster, the command that shows them, and what is asked of whom."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cai_ray.artifacts.storage import Storage
from cai_ray.cli import app
from cai_ray.doctor import examination, node, table
from cai_ray.doctor.examination import does_not_fit, examine
from cai_ray.doctor.facts import GIB, Facts, Finding, Gpu
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.pipeline.recipe import build, load
from tests.field.server import serving


def write(folder: Path, **models: object) -> Path:
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({"name": "run", "output": str(folder / "out"), "models": models}))
    return path


def test_this_machine_is_examined_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("MY_KEY", "x")
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    asked = {name: {"endpoint": {**endpoint, "api_key_env": name.upper()}} for name in ("my_key", "no_key")}
    facts = examine(load(write(tmp_path, policy={}, **asked)), ClusterConfig())
    (here,) = facts.nodes
    assert here.host == socket.gethostname() and here.versions["ray"].startswith("2.")
    assert here.keys == {"MY_KEY": True, "NO_KEY": False}
    assert here.storage_error is None and not facts.unseen and here.disk_free > 0 and here.open_files > 0
    assert not list((tmp_path / "out").iterdir()), "probes are gone"


def test_the_command_shows_the_mend_in_80_columns_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("NO_KEY", raising=False)
    recipe = write(tmp_path, policy={"endpoint": {"base_url": "http://h/v1", "model": "m", "api_key_env": "NO_KEY"}})
    ended = CliRunner().invoke(app, ["doctor", str(recipe)], env={"COLUMNS": "80"})
    assert ended.exit_code == 2, ended.output
    assert "NO_KEY is not set on" in ended.output and "mend: export NO_KEY" in ended.output
    assert max(map(len, ended.output.splitlines())) <= 80
    body = json.loads(CliRunner().invoke(app, ["doctor", str(recipe), "--json"]).output)
    assert not body["is_well"] and body["facts"]["nodes"][0]["keys"] == {"NO_KEY": False}
    assert [finding["check"] for finding in body["findings"] if finding["mend"]] == ["endpoint keys"]


def test_storage_that_fails_is_said_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists" in str(node.storage_error(Storage(str(tmp_path / "file")), "one"))
    assert node.storage_error(Storage(str(tmp_path)), "one") == "does not see what the driver wrote"
    (tmp_path / node.DRIVER).write_text("")
    assert node.storage_error(Storage(str(tmp_path)), "one") is None


def test_a_stranger_is_told_a_status() -> None:
    with serving() as server:
        port = int(server.url.split(":")[2].removesuffix("/v1"))
        assert node.status_without_token(f"{server.url}/jobs/") == 200
        assert node.bound_to(port) == ("127.0.0.1",)
    assert node.status_without_token("http://127.0.0.1:1/api/jobs/") is None


def test_a_recipe_is_planned_on_the_smallest_gpu() -> None:
    gpus = [Gpu(name="NVIDIA H100 80GB HBM3", memory=80 * GIB), Gpu(name="Small", memory=8 * GIB)]
    recipe = build({"name": "run", "models": {"policy": {"path": "meta-llama/Llama-3.1-8B-Instruct"}}}, "x")
    assert does_not_fit(recipe, gpus[:1]) == ()
    assert any("revise needs 16 GiB on a device that has 5" in problem for problem in does_not_fit(recipe, gpus) or ())
    assert does_not_fit(recipe, []) is None and does_not_fit(None, gpus) is None


@pytest.mark.parametrize(
    ("path", "hub_id"), [("org/model", "org/model"), ("microworld", None), ("/srv/model", None), ("~/model", None)]
)
def test_which_models_are_of_the_hub(path: str, hub_id: str | None) -> None:
    recipe = build({"name": "run", "models": {"policy": {"path": path}}}, "x")
    assert examination._hub_id(recipe.models["policy"]) == hub_id


def test_markup_in_what_was_found_is_text() -> None:
    console = Console(width=80, record=True)
    table.show([Finding(check="disk", told="[red] is a folder", mend="[x]")], console)
    said = console.export_text()
    assert "[red] is a folder" in said and "mend: [x]" in said
    assert json.loads(table.as_json(Facts(nodes=()), []))["is_well"]
