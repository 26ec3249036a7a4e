"""`cai-ray microworld`: the built-in micro world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai_ray.commands.terminal import console, only_our_words
from cai_ray.exits import edge

app = typer.Typer(name="microworld", help="The built-in micro world.", no_args_is_help=True)


@app.command("build")
@edge
@only_our_words
def build_model(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; default: the cache.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another model; 0 comes along.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train it in any case, and replace what is cached.")] = False,
) -> None:
    """Put the micro model into the cache: what is there stays, seed 0 comes along, others take about six minutes."""
    from cai_ray.microworld.pretrain import build, ensure_model

    made = build(output, seed) if output else ensure_model(seed=seed, fresh=fresh)
    console.print(str(made), soft_wrap=True)
