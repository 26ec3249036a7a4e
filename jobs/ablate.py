"""Every variant of an ablation on a recipe.

For `ray job submit --working-dir . -- python jobs/ablate.py RECIPE ABLATION [--set key=value ...]`; the ablations are
jobs/recipes/ablations/*.yaml. Running it again goes on where it stopped. Each variant is a run of its own, to be
looked at as any other: `cai-ray status`, `cai-ray report`.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cai_ray.engines.cluster import connected
from cai_ray.exits import edge
from cai_ray.pipeline import ablations
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps


@edge
def main(
    recipe: Path,
    ablation: Path,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value for every variant.")] = None,
) -> None:
    """Run the recipe once per variant and show each one's tables."""
    console, asked = Console(), ablations.load_ablation(ablation)
    made = ablations.variants(asked, recipe, overrides or ())
    console.print(f"{asked.question}  ({asked.source})")
    with connected(next(iter(made.values())).cluster):
        for name, variant in made.items():
            console.rule(f"{name}: {', '.join(asked.variants[name]) or 'the recipe as it is'}")
            for other in list(made.values()):
                if other is not variant:
                    ablations.take_over(variant, other)
            for outcome in pipeline.run(variant, steps(variant)):
                if outcome.table is not None:
                    console.print(outcome.table)


if __name__ == "__main__":
    typer.run(main)
