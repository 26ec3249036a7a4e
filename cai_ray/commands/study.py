"""`cai-ray study`: several models, as they are, without and with their direction of refusal, criticise themselves.

Tested in tests/pipeline/studies/test_study.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cai_ray.commands.arguments import Overrides
from cai_ray.commands.terminal import console, only_our_words
from cai_ray.exits import edge


@edge
@only_our_words
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A name or a YAML file.", show_default=False)],
    set_: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will take, and start nothing.")] = False,
    gpus: Annotated[str | None, typer.Option(help="With --plan: number and kind, e.g. 1xH100.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="With --plan: dollars per GPU and hour.")] = None,
) -> None:
    """Run every cell of a study, and report. Run it again to go on; a cell that fails is a marked hole."""
    from cai_ray.pipeline.studies.figures import figures_of
    from cai_ray.pipeline.studies.page import shown_table, write_page
    from cai_ray.pipeline.studies.running import run_study
    from cai_ray.pipeline.studies.study import load_study

    loaded = load_study(name, set_ or ())
    if plan:
        from cai_ray.planning.devices import hardware
        from cai_ray.planning.studies import plan_study, table_of

        console.print(table_of(plan_study(loaded, hardware(gpus, price)), price))
        return

    def say(line: str) -> None:
        console.print(escape(line), soft_wrap=True, highlight=False)

    holes = run_study(loaded, say)
    figures = figures_of(loaded, holes)
    console.print(shown_table(figures))
    for where, why in figures.holes.items():
        say(f"{where}: no rows: {why}")
    for file in write_page(Path(loaded.output) / loaded.name, figures):
        say(str(file))
