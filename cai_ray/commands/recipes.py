"""`cai-ray recipes`: what comes along, and a copy to edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cai_ray.commands.terminal import console
from cai_ray.exits import edge

app = typer.Typer(name="recipes", help="The recipes that come along.", invoke_without_command=True)


@app.callback()
@edge
def recipes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the recipes and ablations that come along: `cai-ray run RECIPE`, `cai-ray ablate RECIPE ABLATION`."""
    if context.invoked_subcommand is not None:
        return
    from cai_ray.pipeline.catalogue import ablation_lines, recipe_lines

    runs, questions = recipe_lines(), ablation_lines()
    if as_json:
        found = {"recipes": [one.model_dump() for one in runs], "ablations": [one.model_dump() for one in questions]}
        print(json.dumps(found, indent=2))
        return
    rows = [(one.name, one.prompts, str(one.rounds), one.what, ", ".join(one.models)) for one in runs]
    _print_lines([("RECIPE", "prompts", "rounds", "what it is", "models"), *rows])
    _print_lines([("ABLATION", "what it asks of a recipe"), *((one.name, one.question) for one in questions)])


def _print_lines(lines: Sequence[tuple[str, ...]]) -> None:
    """A line each, in columns; on a terminal cut at its edge."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if console.is_terminal and len(text) > console.width:
            text = text[: console.width - 1] + "…"
        console.print(text, style="bold" if number == 0 else None, soft_wrap=True, highlight=False, markup=False)


@app.command("copy")
@edge
def copy_here(
    name: Annotated[str, typer.Argument(help="A recipe or an ablation that comes along.", show_default=False)],
    to: Annotated[Path | None, typer.Argument(help="A new file, or a folder; default: NAME.yaml here.")] = None,
) -> None:
    """Put a recipe here to edit."""
    from cai_ray.pipeline.catalogue import copy

    console.print(str(copy(name, to)), soft_wrap=True, highlight=False, markup=False)
