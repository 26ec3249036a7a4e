"""What many commands take: a recipe, and changes to it.

Tested in tests/commands/test_config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cai_ray.pipeline.recipe import Recipe

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name (see `cai-ray recipes`) or a YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. revise.num_revisions=2; may be repeated.")
]
Only = Annotated[str | None, typer.Option(help="Run this stage alone.")]
From = Annotated[str | None, typer.Option("--from", help="Begin with this stage.")]
Until = Annotated[str | None, typer.Option(help="End with this stage.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Load at most so many prompts.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete the output of these stages first.")]


def load_recipe(recipe: str, overrides: list[str] | None, limit: int | None = None, as_written: bool = False) -> Recipe:
    """Raises ConfigError with every mistake in it. `as_written`: for who only looks at files, no model is looked at."""
    from cai_ray.pipeline.recipe import limited, load, written

    loaded = (written if as_written else load)(recipe, overrides or [])
    return loaded if limit is None else limited(loaded, limit)
