"""`cai-ray config`: what a recipe may say, and what one says; overrides as every command takes them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cai_ray.cli import app


def test_a_recipe_with_every_default_spelt_out_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: test\n")
    shown = CliRunner().invoke(app, ["config", "show", str(path), "--set", "revise.num_revisions=2"])
    assert "num_revisions: 2" in shown.output and f"folder: {tmp_path}" in shown.output


def test_the_schema_describes_every_section() -> None:
    schema = json.loads(CliRunner().invoke(app, ["config", "schema"]).output)
    assert {"revise", "ppo", "evaluate"} <= set(schema["properties"])
