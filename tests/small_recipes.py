"""Recipes without engines: an endpoint that nobody answers, and one prompt. For what is decided before a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.pipeline.recipe import Recipe, build

SERVER = {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}


def fields(folder: Path) -> dict[str, Any]:
    """What every recipe must say."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "How do I paint a chair?"}\n')
    return {
        "name": "test",
        "output": str(folder / "runs"),
        "models": {"policy": SERVER},
        "prompts": {"path": str(prompts)},
    }


def recipe(data: dict[str, Any], **sections: Any) -> Recipe:
    return build({**data, **sections}, "test")
