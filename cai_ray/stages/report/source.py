"""What a report is made from: the files of a run, each of which may be missing or damaged.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from cai_ray.artifacts.artifact import PLAN, SUMMARY, Artifact, find
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.summary import Made, first_mistake, read

RECIPE = "recipe.json"
# What reading a damaged file raises: it is then a problem that the report shows, and never its end.
DAMAGED = (OSError, ValueError, KeyError, pa.ArrowInvalid)


class RunSource:
    """Reads a run's folder. What is not there is None; what is there and cannot be read is also a problem."""

    def __init__(self, run: Storage) -> None:
        self.run = run
        self.problems: list[str] = []
        self._artifacts: dict[str, Artifact | None] = {}

    def artifact(self, stage: str) -> Artifact | None:
        """The finished output of a stage, or of a folder within one ("evaluate/answers/policy")."""
        if stage not in self._artifacts:
            self._artifacts[stage] = self._found(stage)
        return self._artifacts[stage]

    def _found(self, stage: str) -> Artifact | None:
        try:
            found = find(self.run / stage)
            if found is not None:
                found.manifest  # noqa: B018, read now, so that what fails here fails here
        except (OSError, ValidationError) as error:
            self._problem(f"{stage}/manifest.json", error)
            return None
        return found

    def is_begun(self, stage: str) -> bool:
        return (self.run / stage).exists(PLAN)

    def summary(self, stage: str, kind: type[Made]) -> Made | None:
        """The stage's summary; None when there is none."""
        folder = self.run / stage
        try:
            return read(folder, kind) if self.artifact(stage) is not None and folder.exists(SUMMARY) else None
        except ValidationError as error:
            self._problem(f"{stage}/{SUMMARY}", error, first_mistake(error))
        except OSError as error:
            self._problem(f"{stage}/{SUMMARY}", error)
        return None

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object by its path in the run's folder; empty when there is none."""
        try:
            found = json.loads(self.run.read(name)) if self.run.exists(name) else {}
        except DAMAGED as error:
            self._problem(name, error)
            return {}
        if not isinstance(found, dict):
            self._problem(name, ValueError(f"holds {type(found).__name__}, not an object"))
            return {}
        return found

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The whole lines of the stage's `metrics.jsonl`, also of an unfinished one."""
        try:
            return parse_metrics(read_metrics(self.run / stage))
        except OSError as error:
            self._problem(f"{stage}/metrics.jsonl", error)
            return []

    def rows(self, stage: str) -> Iterator[dict[str, Any]]:
        """Rows of a finished stage, up to the first file that cannot be read."""
        artifact = self.artifact(stage)
        if artifact is not None:
            yield from self._until_damage(stage, artifact.rows())

    def dropped(self, stage: str) -> Iterator[dict[str, Any]]:
        artifact = self.artifact(stage)
        if artifact is not None:
            yield from self._until_damage(f"{stage}/dropped", artifact.dropped())

    def _until_damage(self, what: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            yield from rows
        except DAMAGED as error:
            self._problem(what, error)

    def _problem(self, what: str, error: Exception, why: str = "") -> None:
        text = f"{what} cannot be read: {why or type(error).__name__}"
        if text not in self.problems:
            self.problems.append(text)
