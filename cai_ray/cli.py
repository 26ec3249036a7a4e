"""The command `cai-ray`. Parses first; what is heavy is imported in the command that needs it.

Tested in tests/pipeline/test_run.py.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from cai_ray.exits import edge

app = typer.Typer(
    help="Constitutional AI as a distributed batch system on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
constitution_app = typer.Typer(help="Check, show and import constitutions.", no_args_is_help=True)
microworld_app = typer.Typer(help="The built-in micro world.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(constitution_app, name="constitution")
app.add_typer(microworld_app, name="microworld")
console = Console()

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, e.g. jobs/recipes/quickstart.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. revise.num_revisions=2; may be repeated.")
]
CHECKPOINT_HELP = 'A folder, a hub id, "microworld", or RECIPE:NAME, e.g. jobs/recipes/quickstart.yaml:sl_cai.'


def _start_logging() -> None:
    if sys.stderr.isatty():
        from cai_ray.progress.board import terminal

        handler: logging.Handler = RichHandler(console=terminal, show_path=False, markup=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "httpcore", "ray", "datasets", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _load(recipe: Path, overrides: list[str] | None, limit: int | None = None) -> Any:
    from cai_ray.pipeline.recipe import load

    return load(recipe, [*(overrides or []), *([f"prompts.limit={limit}"] if limit else [])])


@app.command()
@edge
def run(
    recipe: RecipeFile,
    set_: Overrides = None,
    only: Annotated[str | None, typer.Option(help="Run this stage alone.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Begin with this stage.")] = None,
    until: Annotated[str | None, typer.Option(help="End with this stage.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Load at most so many prompts.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the output of these stages first.")] = False,
) -> None:
    """Run a recipe. Run it again to go on where it stopped; finished stages are skipped."""
    _start_logging()
    loaded = _load(recipe, set_, limit)
    from cai_ray.pipeline import run as pipeline
    from cai_ray.pipeline.steps import select, steps
    from cai_ray.stages.report import write_report as report_stage

    chosen = select(steps(loaded), only, from_, until)
    outcomes = pipeline.run(loaded, chosen, fresh)
    if all(outcome.was_finished for outcome in outcomes):
        console.print("Nothing to do: every stage was finished.")
    if not sys.stderr.isatty():  # on a terminal the live view has just said it
        _print_status(pipeline.status(loaded))
    if tables := [outcome.table for outcome in outcomes if outcome.table is not None]:
        console.print(tables[-1])
    if page := next((outcome.artifact.folder for outcome in outcomes if outcome.stage == report_stage.STAGE), None):
        console.print(f"Report: {page.location}/{report_stage.PAGE}", soft_wrap=True, highlight=False)
    console.print(f"Output: {pipeline.folder_of(loaded).location}", soft_wrap=True)


@app.command()
@edge
def status(
    recipe: RecipeFile,
    set_: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Where each stage of a recipe's run stands."""
    from cai_ray.pipeline import run as pipeline

    loaded = _load(recipe, set_)
    stages = pipeline.status(loaded)
    if as_json:
        body = {"run": pipeline.folder_of(loaded).location, "stages": [stage.model_dump() for stage in stages]}
        print(json.dumps(body, indent=2))
    else:
        _print_status(stages)


def _print_status(stages: list[Any]) -> None:
    from rich.table import Table

    table = Table(title="Stages")
    for name in ("stage", "state", "rows in", "rows out", "dropped", "seconds"):
        table.add_column(name, justify="left" if name in ("stage", "state", "dropped") else "right")
    for stage in stages:
        dropped = ", ".join(f"{reason} {count}" for reason, count in stage.rows_dropped.items()) or "0"
        table.add_row(
            stage.stage,
            stage.state,
            "" if stage.rows_in is None else f"{stage.rows_in:,}",
            f"{stage.rows_out:,}",
            dropped,
            "" if stage.duration_s is None else f"{stage.duration_s:,.1f}",
        )
    console.print(table)


@app.command()
@edge
def preview(
    recipe: RecipeFile,
    set_: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="How many dialogues to show.")] = 3,
) -> None:
    """Show a few rows' full critique chains."""
    from cai_ray.pipeline import run as pipeline
    from cai_ray.pipeline.preview import print_dialogues

    loaded = _load(recipe, set_)
    print_dialogues(pipeline.folder_of(loaded), rows, console)


@app.command()
@edge
def report(
    recipe: RecipeFile,
    set_: Overrides = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A file: .html, .md or .json.")] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Leave out prompts and everything a model wrote.")] = False,
) -> None:
    """Show what a run has done so far on one page; also as Markdown and JSON."""
    from cai_ray.pipeline import run as pipeline

    loaded = _load(recipe, [*(set_ or []), *(["report.redact=true"] if redact else [])])
    for file in pipeline.write_report(loaded, output):
        console.print(file, soft_wrap=True, highlight=False, markup=False)


@app.command()
@edge
def chat(
    checkpoints: Annotated[
        list[str], typer.Argument(help=f"{CHECKPOINT_HELP} Two with --compare.", show_default=False)
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Two models answer side by side.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens per answer.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Sample the same answers again.")] = None,
) -> None:
    """Talk to a model in the terminal, or to two side by side."""
    from cai_ray.errors import ConfigError
    from cai_ray.pipeline.model_names import named_model
    from cai_ray.serving.requests import AnswerOptions
    from cai_ray.serving.terminal_chat import chat as talk

    if len(checkpoints) != 1 + compare:
        raise ConfigError(f"{len(checkpoints)} models given; name one, or two with --compare")
    options = AnswerOptions(max_tokens=max_tokens, temperature=temperature, seed=seed)
    talk([named_model(checkpoint) for checkpoint in checkpoints], options, system, console)


@app.command()
@edge
def serve(
    checkpoint: Annotated[str, typer.Argument(help=CHECKPOINT_HELP, show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a token is required.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    token_env: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds the token of clients.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; default: its folder's name.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, e.g. max_replicas=4 or model.engine.max_num_seqs=64; may be repeated."),
    ] = None,
) -> None:
    """Serve a model over OpenAI's API: chat completions, or scores of a preference model."""
    _start_logging()
    from cai_ray.pipeline.model_names import named_model
    from cai_ray.pipeline.recipe import apply_overrides
    from cai_ray.serving import server

    own_name, model = named_model(checkpoint)
    settings = {"name": name or own_name, "model": model.model_dump(), "host": host, "port": port}
    config = server.configure(apply_overrides({**settings, "token_env": token_env}, set_ or []))
    server.run(config, lambda line: console.print(escape(line), soft_wrap=True, highlight=False))


@app.command()
@edge
def plan(
    recipe: RecipeFile,
    set_: Overrides = None,
    gpus: Annotated[str | None, typer.Option(help="Number and kind, e.g. 8xH200; without: this machine's CPU.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Dollars per GPU and hour.")] = None,
    assume: Annotated[
        list[str] | None, typer.Option("--assume", help="name=value of an assumption; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Plan for at most so many prompts.")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="As if no stage were finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Rows, tokens, time, memory and cost of each stage, and what they rest on. Nothing is launched."""
    from cai_ray.planning import plan as planning
    from cai_ray.planning.devices import hardware

    loaded = _load(recipe, set_, limit)
    made = planning.plan(loaded, hardware(gpus, price, assume or ()), use_finished=not from_scratch)
    if as_json:
        print(json.dumps(planning.as_json(made), indent=2))
    else:
        planning.show(made, console)


@config_app.command("schema")
@edge
def config_schema() -> None:
    """The JSON schema of a recipe, with every field's unit, range and default."""
    from cai_ray.pipeline.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


@config_app.command("show")
@edge
def config_show(recipe: RecipeFile, set_: Overrides = None) -> None:
    """The resolved recipe, every default spelt out."""
    from cai_ray.pipeline.recipe import dump

    print(dump(_load(recipe, set_)), end="")


@constitution_app.command("check")
@edge
def constitution_check(
    constitution: Annotated[str, typer.Argument(help="A name that comes along, or a YAML file.", show_default=False)],
) -> None:
    """Explain every mistake in a constitution, with its line."""
    from cai_ray.constitution.source import load, resolve

    loaded = load(resolve(constitution))
    console.print(
        f"{loaded.name}: ok, {len(loaded.for_revision)} principles for revision, "
        f"{len(loaded.for_comparison)} for comparison, {len(loaded.few_shot)} example dialogues"
    )


@constitution_app.command("show")
@edge
def constitution_show(
    constitution: Annotated[str, typer.Argument(help="A name that comes along, or a YAML file.", show_default=False)],
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


@constitution_app.command("import")
@edge
def constitution_import(
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


@microworld_app.command("build")
@edge
def microworld_build(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder; default: the cache.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another model; 0 comes along.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train it in any case, and replace what is cached.")] = False,
) -> None:
    """Put the micro model into the cache: what is there stays, seed 0 comes along, others take about six minutes."""
    _start_logging()
    from cai_ray.microworld.pretrain import build, ensure_model

    made = build(output, seed) if output else ensure_model(seed=seed, fresh=fresh)
    console.print(str(made), soft_wrap=True)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
