"""`cai-ray config`: what a recipe may say, and what one says."""

from __future__ import annotations

import json

import typer

from cai_ray.commands.arguments import Overrides, RecipeName
from cai_ray.exits import edge

app = typer.Typer(name="config", help="Look at a recipe's keys.", no_args_is_help=True)


@app.command("schema")
@edge
def schema() -> None:
    """The JSON schema of a recipe, with every field's unit, range and default."""
    from cai_ray.pipeline.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command("show")
@edge
def show(recipe: RecipeName, set_: Overrides = None) -> None:
    """The resolved recipe, every default spelt out; what comes from a model's generation_config.json says so."""
    from cai_ray.pipeline.model_sampling import told, with_model_sampling
    from cai_ray.pipeline.recipe import dump, written

    as_written = written(recipe, set_ or [])
    for line in told(as_written):
        print(f"# {line}")
    print(dump(with_model_sampling(as_written)), end="")
