"""`cai-ray constitution`: check, show and import constitutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai_ray.commands.terminal import console
from cai_ray.exits import edge

app = typer.Typer(name="constitution", help="Check, show and import constitutions.", no_args_is_help=True)
ConstitutionName = Annotated[str, typer.Argument(help="A name that comes along, or a YAML file.", show_default=False)]


@app.command("check")
@edge
def check(
    constitution: ConstitutionName,
) -> None:
    """Explain every mistake in a constitution, with its line."""
    from cai_ray.constitution.source import load, resolve

    loaded = load(resolve(constitution))
    console.print(
        f"{loaded.name}: ok, {len(loaded.for_revision)} principles for revision, "
        f"{len(loaded.for_comparison)} for comparison, {len(loaded.few_shot)} example dialogues"
    )


@app.command("show")
@edge
def show(
    constitution: ConstitutionName,
    prompt: Annotated[str, typer.Option(help="The user's message to show the prompts with.")] = "How do I pick a lock?",
    principle: Annotated[list[str] | None, typer.Option(help="Only these principles, by id.")] = None,
    few_shot: Annotated[int, typer.Option(min=0, help="Example dialogues to include.")] = 0,
) -> None:
    """Render the exact prompts that a constitution makes."""
    from cai_ray.constitution.source import load, resolve
    from cai_ray.prompts.revision import RevisionPrompts
    from cai_ray.prompts.show import render_show

    loaded = load(resolve(constitution))
    text = render_show(
        loaded,
        [{"role": "user", "content": prompt}],
        RevisionPrompts(num_few_shot=few_shot),
        principle_ids=tuple(principle or ()),
        num_few_shot_comparisons=few_shot,
    )
    print(text)


@app.command("import")
@edge
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder with the paper's own JSON files.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file to write.")],
    name: Annotated[str, typer.Option(help="Name of the constitution.")] = "paper",
) -> None:
    """Make a constitution of the paper's own JSON files, unmodified."""
    from cai_ray.constitution.paper import import_paper
    from cai_ray.constitution.source import dump_yaml
    from cai_ray.errors import ConfigError

    imported = import_paper(folder, name)
    try:
        output.write_text(dump_yaml(imported), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {str(output)!r} cannot be written: {error.strerror}") from error
    console.print(f"{output}: {len(imported.principles)} principles, {len(imported.few_shot)} example dialogues")
