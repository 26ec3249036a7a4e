"""Show whether it worked: one HTML page, the same numbers as Markdown and JSON.  Run -> report.

A report is a view of the other stages and holds nothing of its own, so it is made anew whenever what it shows has
changed. The same run gives the same bytes. A stage that is missing is said to be missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from pydantic import Field

from cai_ray.artifacts.artifact import Artifact, find, open_stage
from cai_ray.artifacts.storage import Storage
from cai_ray.config import StageConfig
from cai_ray.errors import ConfigError
from cai_ray.row_ids import RowIds
from cai_ray.stages.context import Context
from cai_ray.stages.report.examples import Options, examples_of
from cai_ray.stages.report.facts import gather
from cai_ray.stages.report.numbers import as_json, as_markdown
from cai_ray.stages.report.render import as_html
from cai_ray.stages.report.source import RunSource
from cai_ray.stages.step import Step

STAGE = "report"
PAGE, MARKDOWN = "report.html", "report.md"
NO_ROWS = RowIds(("id",))


class Config(StageConfig):
    """The recipe's section `report`."""

    title: str | None = Field(None, description="Heading of the page; null: the run's name.")
    max_examples: int = Field(300, ge=0, le=5_000, description="Most example dialogues in the browser.")
    max_text_chars: int = Field(1_200, ge=50, description="Characters of one text of an example; the rest is cut.")
    redact: bool = Field(False, description="Leave out prompts and everything that a model wrote.")
    price_per_hour: float | None = Field(None, ge=0, description="Of the machines, for a cost; null: time only.")


class Report(NamedTuple):
    """One report in its three formats."""

    html: str
    markdown: str
    json: str

    @property
    def files(self) -> dict[str, str]:
        return {PAGE: self.html, MARKDOWN: self.markdown, "report.json": self.json}


def build(run: Storage, stages: Sequence[str], config: Config) -> Report:
    """The report of what is in the run's folder now. `stages`: those that the recipe has, in order."""
    source = RunSource(run)
    facts = gather(source, stages, config.title, config.price_per_hour)
    options = Options(config.max_examples, config.max_text_chars, config.redact)
    examples = examples_of(source, facts.policies.policies if facts.policies else [], options, facts.seed)
    return Report(as_html(facts, examples), as_markdown(facts), json.dumps(as_json(facts), indent=2) + "\n")


def write(run: Storage, stages: Sequence[str], config: Config, output: str | None = None) -> list[str]:
    """Write the report into the run, or to the file `output`, whose suffix says which format; the files' locations.

    Raises ConfigError when there is no such run, or `output` cannot be written.
    """
    if not run.exists():
        raise ConfigError(f"{run.shown} holds no run yet; start it first: cai-ray run RECIPE")
    if output is None:
        folder = run / STAGE
        report = build(run, stages, config)
        for name, text in report.files.items():
            folder.write(name, text.encode())
        return [(folder / name).shown for name in report.files]
    folder_name, _, name = output.rpartition("/")
    suffix = name.rpartition(".")[2]
    if suffix not in ("html", "md", "json"):
        raise ConfigError(f"--output {output!r} must end in .html, .md or .json, which decides the format")
    report = build(run, stages, config)
    try:
        Storage(folder_name or ("/" if output.startswith("/") else ".")).write(
            name, report.files[f"report.{suffix}"].encode()
        )
    except OSError as error:
        raise ConfigError(f"--output {output!r} cannot be written: {error}") from error
    return [output]


def run(config: Config, context: Context, stages: Sequence[str]) -> Artifact:
    """Make the report, unless the finished one shows just what is there now."""
    there = [found for name in stages if (found := find(context.folder(name))) is not None]
    spec = context.spec(STAGE, config, NO_ROWS, *there)
    finished = find(spec.folder)
    if finished is not None and finished.manifest.inputs == spec.inputs and finished.manifest.config == spec.config:
        last_change = max((found.manifest.finished_at for found in there), default="")
        if last_change <= finished.manifest.started_at:  # the same fingerprint may be another attempt
            return finished
    spec.folder.delete_folder()
    opened = open_stage(spec)
    assert not isinstance(opened, Artifact), "the folder was deleted above"
    write(context.run, stages, config)
    return opened.commit(pa.array([], pa.string()))


def step(config: Config, stages: tuple[str, ...]) -> Step:
    """Of a run: its last, on all `stages` before it."""
    return Step(STAGE, config, lambda context: run(config, context, stages), reads=stages, is_view=True)
