"""Runs that stop after load_prompts: the whole command on a recipe whose models nobody asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from cai_ray.artifacts.artifact import Manifest
from cai_ray.cli import app

NOBODY = {"policy": {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "nobody"}}}


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_recipe(folder: Path, prompts: dict[str, Any]) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"name": "run", "output": str(folder / "runs"), "models": NOBODY, "prompts": prompts})
    )
    return recipe


def load_prompts(recipe: Path | str, *arguments: str) -> tuple[int, str]:
    """The exit code of `cai-ray run --until load_prompts` and all that it said."""
    done = CliRunner().invoke(
        app, ["run", str(recipe), "--until", "load_prompts", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False
    )
    return done.exit_code, done.output


def manifest_of(folder: Path, name: str = "run") -> Manifest:
    return Manifest.model_validate_json((folder / "runs" / name / "load_prompts" / "manifest.json").read_text())
