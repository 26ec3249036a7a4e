"""`cai-ray recipes`, and recipes by name in every command that takes one; from an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_ray import shelf
from cai_ray.cli import app


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_a_line_each() -> None:
    lines = told("recipes").splitlines()
    kinds = ("recipe", "ablation")
    assert len(lines) == 2 + sum(len(shelf.available(kind)) for kind in kinds)
    assert all(any(line.startswith(f"{name} ") for line in lines) for kind in kinds for name in shelf.available(kind))
    found = json.loads(told("recipes", "--json"))
    assert {one["name"] for one in found["recipes"]} == set(shelf.available("recipe"))
    assert {one["name"] for one in found["ablations"]} == set(shelf.available("ablation"))


def test_copy(empty_folder: Path) -> None:
    assert told("recipes", "copy", "quickstart") == "quickstart.yaml\n"
    assert (empty_folder / "quickstart.yaml").read_bytes() == shelf.available("recipe")["quickstart"].read_bytes()
    assert "is there already" in told("recipes", "copy", "quickstart", code=2)
    assert told("recipes", "copy", "critiques", "mine.yaml") == "mine.yaml\n"


def test_every_command_takes_a_name(empty_folder: Path) -> None:
    assert "load_prompts" in told("status", "quickstart")
    assert "num_revisions: 4" in told("config", "show", "quickstart")
    assert "revise" in told("plan", "quickstart")
    assert "H200" in told("plan", "llama-3.1-8b", "--gpus", "8xH200")
    assert "no revisions yet" in told("preview", "quickstart", code=2)
    assert "holds no run yet" in told("report", "quickstart", code=2)
    told("run", "quickstart", "--until", "load_prompts", "--limit", "3", "--set", "output=here")
    assert (empty_folder / "here" / "quickstart" / "load_prompts" / "manifest.json").is_file()
    assert "has no output" in told("chat", "quickstart:sl_cai", code=2)
    assert "say which of its models" in told("serve", "quickstart", code=2)


@pytest.mark.parametrize("command", [("run",), ("plan",), ("status",), ("config", "show"), ("preview",), ("report",)])
def test_a_wrong_name_is_one_message_with_the_right_one(command: tuple[str, ...]) -> None:
    output = told(*command, "quikstart", code=2)
    assert "did you mean quickstart?" in output and "Traceback" not in output


def test_a_wrong_name_of_a_model_or_an_ablation() -> None:
    assert "did you mean quickstart?" in told("chat", "quikstart:sl_cai", code=2)
    assert "did you mean critiques?" in told("ablate", "quickstart", "critique", code=2)
    assert "did you mean quickstart?" in told("ablate", "quikstart", "critiques", code=2)
