"""Small runs whose every answer comes from a FakeServer: a recipe, and the command on it in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.field.server import FakeServer
from tests.runs import cli, merged, saying, write_jsonl, write_recipe

RUN_LIMIT_S = 150


def endpoint_recipe(folder: Path, server: FakeServer, num_prompts: int = 40, /, **changes: Any) -> Path:
    """A recipe that asks `server` once per prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = write_jsonl(folder / "prompts.jsonl", [saying(f"How do I fold {k} napkins?") for k in range(num_prompts)])
    endpoint = {"base_url": server.url, "model": "m", "max_retries": 0, "timeout_s": 10, "max_concurrency": 4}
    asked = {
        "models": {"policy": {"endpoint": endpoint}},
        "revise": {"num_revisions": 0, "scaling": {"rows_per_task": 4, "rows_per_part": 4}},
    }
    path = write_recipe(folder, "microworld", prompts, **merged(asked, changes))
    return path


def command(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command to its end, with what it said."""
    return subprocess.run(
        cli(recipe, *arguments), capture_output=True, text=True, timeout=RUN_LIMIT_S, stdin=subprocess.DEVNULL
    )


def committed(recipe: Path, stage: str = "revise") -> tuple[int, int]:
    """(rows, dropped rows) in the committed parts of an unfinished stage."""
    found = [json.loads(file.read_text()) for file in (recipe.parent / "run" / stage / "records").glob("*.json")]
    rows = sum(record["rows"]["num_rows"] for record in found if record["rows"])
    return rows, sum(record["dropped"]["num_rows"] for record in found if record["dropped"])
