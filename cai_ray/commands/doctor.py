"""`cai-ray doctor`: what would go wrong on this machine or cluster, before anything runs there.

Tested in tests/doctor/test_examination.py and tests/cluster/test_doctor.py.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai_ray.commands.arguments import Overrides, load_recipe
from cai_ray.commands.terminal import console, only_our_words
from cai_ray.errors import ConfigError
from cai_ray.exits import EXIT_BAD_INPUT, edge

if TYPE_CHECKING:
    from cai_ray.doctor.facts import Facts


@edge
@only_our_words
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A name or a YAML file.", show_default=False)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:6379 on a node of a cluster, its dashboard's http://HOST:8265 from anywhere; without: "
            "RAY_ADDRESS, else this machine."
        ),
    ] = None,
    set_: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; one line.")] = False,
) -> None:
    """Check versions, access, storage, memory, disks, limits, clocks, hub and keys of every node; exit code 0 or 2."""
    from cai_ray.doctor import table
    from cai_ray.doctor.checks import CHECKS
    from cai_ray.doctor.examination import examine
    from cai_ray.engines.cluster import ClusterConfig

    if address and address.startswith(("http://", "https://")):
        facts = _examined_there(address, recipe, set_)
    else:
        loaded = load_recipe(recipe, set_) if recipe else None
        cluster = loaded.cluster if loaded is not None else ClusterConfig()
        facts = examine(loaded, cluster.model_copy(update={"address": address}) if address else cluster)
    findings = [judge(facts) for judge in CHECKS]
    if as_json:
        console.print(table.as_json(facts, findings), soft_wrap=True, highlight=False, markup=False)
    else:
        table.show(findings, console)
    raise typer.Exit(0 if all(finding.is_well for finding in findings) else EXIT_BAD_INPUT)


def _examined_there(address: str, recipe: str | None, overrides: list[str] | None) -> Facts:
    """The facts that a job on the cluster finds. Raises ConfigError with what it said where it found none."""
    from cai_ray.doctor.facts import Facts
    from cai_ray.submission import job as jobs
    from cai_ray.submission.parcel import pack

    with tempfile.TemporaryDirectory(prefix="cai_ray-doctor-") as folder:
        named = [pack(recipe, overrides or [], Path(folder))[1]] if recipe else []
        command = ["python", "-m", "cai_ray.cli", "doctor", *named, "--json"]
        job = jobs.submit(jobs.connect(address), f"doctor-{uuid.uuid4().hex[:8]}", Path(folder), command)
    said: list[str] = []
    jobs.follow(job, said.append)
    lines = "".join(said).splitlines()
    found = next((line for line in reversed(lines) if line.startswith('{"is_well"')), None)
    if found is None:
        raise ConfigError(f"job {job.id} found nothing; it said: {' / '.join(lines[-5:])}")
    return Facts.model_validate(json.loads(found)["facts"])
