"""`cai-ray submit`: a recipe as a job on a cluster.

Tested in tests/cluster/test_submit.py.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cai_ray.commands.arguments import Fresh, From, Limit, Only, Overrides, RecipeName, Until
from cai_ray.commands.terminal import console, only_our_words
from cai_ray.errors import ConfigError, Stopped
from cai_ray.exits import EXIT_RETRYABLE, edge


@edge
@only_our_words
def submit(
    recipe: RecipeName,
    address: Annotated[
        str | None,
        typer.Option(help="The cluster's dashboard, e.g. http://127.0.0.1:8265; without: RAY_API_SERVER_ADDRESS."),
    ] = None,
    set_: Overrides = None,
    only: Only = None,
    from_: From = None,
    until: Until = None,
    limit: Limit = None,
    fresh: Fresh = False,
    retry_dropped: Annotated[
        str | None, typer.Option(metavar="REASONS", help="As in `cai-ray run`; deletes the stages after theirs.")
    ] = None,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job; without, it goes on.")
    ] = False,
) -> None:
    """Run a recipe as a job on a Ray cluster; follow it, and end with its exit code. Again: attach, or resume."""
    from cai_ray.pipeline.steps import select, steps
    from cai_ray.submission import job as jobs
    from cai_ray.submission.parcel import pack

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError("no cluster is named; give --address http://HOST:8265 or set RAY_API_SERVER_ADDRESS")
    with tempfile.TemporaryDirectory(prefix="cai_ray-submit-") as folder:
        loaded, file = pack(recipe, set_ or [], Path(folder))
        select(steps(loaded), only, from_, until)  # a wrong stage is told here
        given = {"--only": only, "--from": from_, "--until": until, "--limit": limit, "--retry-dropped": retry_dropped}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        command = ["python", "-m", "cai_ray.cli", "run", file, *options, *(["--fresh"] if fresh else [])]
        job = jobs.submit(jobs.connect(address), jobs.run_id(loaded), Path(folder), command)
    if job.is_new:
        told = f"Job {job.id} on {address}. Ctrl-C {'stops it' if stop_on_interrupt else 'leaves it running'}."
    else:
        told = f"Job {job.id} works on this run already ({job.entrypoint}): attached to it."
    _print(f"{told}\n")
    try:
        code = jobs.follow(job, _print)
    except Stopped:
        if stop_on_interrupt:
            jobs.stop(job)
            raise
        _print(f"\nJob {job.id} goes on. The same command attaches to it; `ray job stop {job.id}` stops it.\n")
        code = EXIT_RETRYABLE
    raise typer.Exit(code)


def _print(text: str) -> None:
    console.print(text, end="", soft_wrap=True, highlight=False, markup=False)
