"""The command `cai-ray`: the verbs on a recipe's run. Nouns and their verbs lie in commands/.

Parses first; what is heavy is imported in the command that needs it. Tested in tests/pipeline/test_run.py.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.markup import escape

from cai_ray.commands import (
    annotate,
    config,
    constitution,
    doctor,
    microworld,
    publish,
    recipes,
    spot_watch,
    study,
    submit,
)
from cai_ray.commands.arguments import Fresh, From, Limit, Only, Overrides, RecipeName, Until, load_recipe
from cai_ray.commands.terminal import console, only_our_words
from cai_ray.exits import edge
from cai_ray.progress.board import terminal

app = typer.Typer(
    help="Constitutional AI as a distributed batch system on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (recipes, config, constitution, microworld):
    app.add_typer(group.app)
for command in (study.study, submit.submit, annotate.annotate, publish.publish, doctor.doctor, spot_watch.spot_watch):
    app.command()(command)
CHECKPOINT_HELP = 'A folder, a hub id, "microworld", or RECIPE:NAME, e.g. quickstart:sl_cai.'


@app.command()
@edge
@only_our_words
def run(
    recipe: RecipeName,
    set_: Overrides = None,
    only: Only = None,
    from_: From = None,
    until: Until = None,
    limit: Limit = None,
    fresh: Fresh = False,
    retry_dropped: Annotated[
        str | None,
        typer.Option(
            metavar="REASONS", help="Ask rows dropped for these reasons again; deletes the stages after theirs."
        ),
    ] = None,
) -> None:
    """Run a recipe. Run it again to go on where it stopped; finished stages are skipped."""
    loaded = load_recipe(recipe, set_, limit)
    from cai_ray.pipeline import run as pipeline
    from cai_ray.pipeline.retry_dropped import reasons_of
    from cai_ray.pipeline.status import status as status_of
    from cai_ray.pipeline.steps import select, steps
    from cai_ray.stages.report import write_report as report_stage

    chosen = select(steps(loaded), only, from_, until)
    outcomes = pipeline.run(loaded, chosen, fresh, reasons_of(retry_dropped) if retry_dropped is not None else ())
    if all(outcome.was_finished for outcome in outcomes):
        console.print("Nothing to do: every stage was finished.")
    if not terminal.file.isatty():  # on a terminal the live view has just said it
        _print_status(status_of(loaded))
    if tables := [outcome.table for outcome in outcomes if outcome.table is not None]:
        console.print(tables[-1])
    if page := next((outcome.artifact.folder for outcome in outcomes if outcome.stage == report_stage.STAGE), None):
        console.print(f"Report: {(page / report_stage.PAGE).shown}", soft_wrap=True, highlight=False)
    console.print(f"Output: {pipeline.folder_of(loaded).shown}", soft_wrap=True)


@app.command()
@edge
@only_our_words
def ablate(
    recipe: RecipeName,
    ablation: Annotated[
        str,
        typer.Argument(help="What to ask of it: a name (see `cai-ray recipes`) or a YAML file.", show_default=False),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for every variant.")] = None,
) -> None:
    """Run a recipe once per variant of an ablation. Run it again to go on; each variant is a run as any other."""
    from cai_ray.pipeline import ablations

    asked = ablations.load_ablation(ablation)
    made = ablations.variants(asked, recipe, set_ or ())
    console.print(f"{asked.question}  ({asked.source})", markup=False)

    def begins(name: str) -> None:
        console.rule(f"{name}: {escape(', '.join(asked.variants[name]) or 'the recipe as it is')}")

    ablations.run_all(made, begins, console.print)


@app.command()
@edge
def status(
    recipe: RecipeName,
    set_: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Where each stage of a recipe's run stands."""
    from cai_ray.pipeline import run as pipeline
    from cai_ray.pipeline.status import status as status_of

    loaded = load_recipe(recipe, set_, as_written=True)
    stages = status_of(loaded)
    if as_json:
        body = {"run": pipeline.folder_of(loaded).shown, "stages": [stage.model_dump() for stage in stages]}
        print(json.dumps(body, indent=2))
    else:
        _print_status(stages)


def _print_status(stages: list[Any]) -> None:
    from rich.table import Table

    table = Table(title="Stages", box=None, padding=(0, 1, 0, 0))
    costs = any(stage.dollars for stage in stages)
    names = ("stage", "state", "in", "out", "dropped", "left out", "seconds", "tokens")
    for name in (*names, "dollars") if costs else names:
        table.add_column(name, justify="left" if name in ("stage", "state") else "right", no_wrap=True)
    reasons: list[str] = []
    for stage in stages:
        for what, counts in (("dropped", stage.rows_dropped), ("left out", stage.rows_left_out)):
            if counts:
                by_reason = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
                reasons.append(f"{stage.stage}, {what}: {by_reason}")
        table.add_row(
            stage.stage,
            stage.state,
            "" if stage.rows_in is None else f"{stage.rows_in:,}",
            f"{stage.rows_out:,}",
            f"{sum(stage.rows_dropped.values()):,}",
            f"{sum(stage.rows_left_out.values()):,}",
            "" if stage.duration_s is None else f"{stage.duration_s:,.1f}",
            f"{stage.tokens:,}" if stage.tokens else "",
            *([f"{stage.dollars:,.2f}"] if costs else []),
        )
    console.print(table)
    for line in reasons:  # below, because reasons have no end of room in a cell
        console.print(line, soft_wrap=True, highlight=False)


@app.command()
@edge
def preview(
    recipe: RecipeName,
    set_: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="How many dialogues to show.")] = 3,
) -> None:
    """Show a few rows' full critique chains."""
    from cai_ray.pipeline import run as pipeline
    from cai_ray.pipeline.preview import print_dialogues

    loaded = load_recipe(recipe, set_, as_written=True)
    print_dialogues(pipeline.folder_of(loaded), rows, console)


@app.command()
@edge
def report(
    recipe: RecipeName,
    set_: Overrides = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A file: .html, .md or .json.")] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Leave out prompts and everything a model wrote.")] = False,
) -> None:
    """Show what a run has done so far on one page; also as Markdown and JSON."""
    from cai_ray.pipeline import run as pipeline

    overrides = [*(set_ or []), *(["report.redact=true"] if redact else [])]
    loaded = load_recipe(recipe, overrides, as_written=True)
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
    from cai_ray.serving.terminal_chat import chat as talk

    if len(checkpoints) != 1 + compare:
        raise ConfigError(f"{len(checkpoints)} models given; name one, or two with --compare")
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    talk([named_model(checkpoint) for checkpoint in checkpoints], sampling, system, console)


@app.command()
@edge
@only_our_words
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
    """Serve a model over OpenAI's API (vLLM's own: chat, completions, tools, JSON), or a preference model's scores."""
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
    recipe: RecipeName,
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

    loaded = load_recipe(recipe, set_, limit)
    made = planning.plan(loaded, hardware(gpus, price, assume or ()), use_finished=not from_scratch)
    if as_json:
        print(json.dumps(planning.as_json(made), indent=2))
    else:
        planning.show(made, console)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
