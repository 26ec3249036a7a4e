"""`cai-ray publish`: a run's data and models to the Hugging Face hub.

Tested in tests/publishing/test_publish.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cai_ray.commands.arguments import Overrides, RecipeName, load_recipe
from cai_ray.commands.terminal import console, only_our_words
from cai_ray.errors import ConfigError
from cai_ray.exits import edge


@edge
@only_our_words
def publish(
    recipe: RecipeName,
    target: Annotated[str, typer.Argument(metavar="hf://ORG/NAME", help="Where to.", show_default=False)],
    set_: Overrides = None,
    private: Annotated[bool, typer.Option("--private", help="New repositories are private.")] = False,
    only: Annotated[str | None, typer.Option(metavar="data|models", help="Push these alone.")] = None,
    license_: Annotated[
        list[str] | None,
        typer.Option("--license", metavar="SOURCE=LICENCE", help="Of a source, or of models.NAME; may be repeated."),
    ] = None,
    allow_license: Annotated[
        list[str] | None, typer.Option(help="Publish rows under this licence too; may be repeated.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Do not publish its rows; may be repeated.")
    ] = None,
) -> None:
    """Push a run's data set to ORG/NAME and its models to ORG/NAME-<model>, with cards. Again: only what is missing."""
    from cai_ray.publishing.publish import Terms
    from cai_ray.publishing.publish import publish as push_all

    if only not in (None, "data", "models"):
        raise ConfigError(f"--only {only!r} is neither data nor models")
    told = [one.partition("=") for one in license_ or ()]
    if wrong := [name for name, equals, licence in told if not (name and equals and licence)]:
        raise ConfigError(f"--license {wrong[0]!r} is not SOURCE=LICENCE")
    terms = Terms(
        {name: licence for name, _, licence in told}, frozenset(allow_license or ()), frozenset(leave_out or ())
    )
    loaded = load_recipe(recipe, set_, as_written=True)
    for url in push_all(loaded, target, private, terms, only):  # type: ignore[arg-type]  # checked above
        console.print(f"Published: {url}", soft_wrap=True, highlight=False, markup=False)
