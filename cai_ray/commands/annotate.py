"""`cai-ray annotate`: pairs of a run as files for people to judge in an annotation tool.

Tested in tests/stages/test_annotation.py.
"""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from cai_ray.commands.arguments import Overrides, RecipeName, load_recipe
from cai_ray.commands.terminal import console
from cai_ray.errors import ConfigError
from cai_ray.exits import edge


@edge
def annotate(
    recipe: RecipeName,
    folder: Annotated[str, typer.Argument(help="A new folder, or a URI.", show_default=False)],
    tool: Annotated[str, typer.Option(metavar="label_studio|argilla", help="Whose format.")] = "label_studio",
    rows: Annotated[int | None, typer.Option(min=1, help="Pairs, drawn by the seed; without: all.")] = None,
    set_: Overrides = None,
) -> None:
    """Write a run's pairs for people to judge. Their verdicts come back through preference_model.preferences."""
    from cai_ray.artifacts.artifact import find
    from cai_ray.artifacts.storage import Storage
    from cai_ray.pipeline import run as pipeline
    from cai_ray.stages.annotation import Tool, chosen_pairs, write
    from cai_ray.stages.preferences import label_comparisons, load_pairs, sample_pairs

    if tool not in get_args(Tool):
        raise ConfigError(f"--tool {tool!r} is not one of {', '.join(get_args(Tool))}")
    loaded = load_recipe(recipe, set_, as_written=True)
    run = pipeline.folder_of(loaded)
    stages = (label_comparisons.STAGE, sample_pairs.STAGE, load_pairs.STAGE)
    pairs = next((found for name in stages if (found := find(run / name)) is not None), None)
    if pairs is None:
        raise ConfigError(f"{run.shown} has no pairs yet; run it first (cai-ray run, --until sample_pairs)")
    chosen = chosen_pairs(pairs, rows, loaded.seed)
    for file in write(tool, chosen, Storage(folder)):  # type: ignore[arg-type]  # checked above
        console.print(file, soft_wrap=True, highlight=False, markup=False)
