"""The life of a stage that is made of conversations: open, what is left, converse, commit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.config import ModelConfig, ScalingConfig
from cai_ray.engines.artifacts import Artifact, OpenStage, open_stage
from cai_ray.engines.cluster import ClusterConfig, connected, gpus_per_engine
from cai_ray.engines.generation import ROW_ID, ConversationJob, Work, converse_all
from cai_ray.engines.parts import PartRecord, RowIds
from cai_ray.engines.storage import Storage
from cai_ray.engines.tracking import StageProgress
from cai_ray.rows import DropReason

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageSpec:
    """Where a conversation stage reads and writes, and how its rows are told apart."""

    folder: Storage
    fingerprint: str
    config: dict[str, Any]  # resolved, for the manifest
    source: Artifact
    row_ids: RowIds  # ids of the units that output rows answer
    key_columns: tuple[str, ...]  # of an output row, what `row_ids` reads
    unit_columns: tuple[str, ...]  # of an input row, what `job.expand` needs to name its units


@dataclass(frozen=True)
class Conversations:
    """A job of a stage, and the model that it asks."""

    spec: StageSpec
    job: ConversationJob
    model: ModelConfig
    scaling: ScalingConfig
    name: str = ""  # in progress lines, where a stage has several


def run_conversations(
    spec: StageSpec,
    job: ConversationJob,
    model: ModelConfig,
    scaling: ScalingConfig,
    cluster: ClusterConfig,
    settle: Callable[[OpenStage], None] | None = None,
) -> Artifact:
    """Converse every unit of work that is not committed yet, then commit the stage.

    `settle` runs once all rows are there and may move rows to Dropped (data-set-wide gates).
    """
    (artifact,) = run_together([Conversations(spec, job, model, scaling)], cluster, settle)
    return artifact


def run_together(
    asked: Sequence[Conversations], cluster: ClusterConfig, settle: Callable[[OpenStage], None] | None = None
) -> list[Artifact]:
    """`run_conversations` of several, at the same time, each on engines of its own; their artifacts in order."""
    opened = [_open(conversations) for conversations in asked]
    begun = [(ours, stage) for ours, stage in zip(asked, opened, strict=True) if isinstance(stage, OpenStage)]
    unit_ids = [input_unit_ids(ours.spec, ours.job) for ours, _ in begun]
    _converse([(*one, ids) for one, ids in zip(begun, unit_ids, strict=True)], cluster)
    committed = []
    for (_, stage), ids in zip(begun, unit_ids, strict=True):
        if settle is not None:
            settle(stage)
        committed.append(stage.commit(ids))
    fresh = iter(committed)
    return [stage if isinstance(stage, Artifact) else next(fresh) for stage in opened]


def _open(asked: Conversations) -> OpenStage | Artifact:
    spec = asked.spec
    return open_stage(
        spec.folder,
        asked.job.stage,
        spec.fingerprint,
        spec.config,
        {spec.source.manifest.stage: spec.source.manifest.fingerprint},
        spec.row_ids,
        spec.key_columns,
    )


def _converse(begun: Sequence[tuple[Conversations, OpenStage, pa.Array]], cluster: ClusterConfig) -> None:
    """What is left of the units of work (the third of each), all at once. Starts nothing where nothing is left."""
    left = []
    for ours, stage, unit_ids in begun:
        num_left = len(unit_ids) - (pc.sum(pc.is_in(unit_ids, value_set=stage.done_ids)).as_py() or 0)
        if num_left:
            left.append((ours, stage, len(unit_ids), len(unit_ids) - num_left))
    if not left:
        return
    with connected(cluster), ExitStack() as shown:
        works, lines = [], []
        for ours, stage, num_total, num_done in left:
            source, model = ours.spec.source, ours.model
            works.append(
                Work(
                    job=ours.job,
                    paths=source.paths(),
                    filesystem=source.folder.filesystem,
                    folder=ours.spec.folder,
                    done_ids=stage.done_ids,
                    scaling=ours.scaling,
                    num_gpus_per_engine=0.0 if model.endpoint else gpus_per_engine(model.engine.tensor_parallel_size),
                )
            )
            line = StageProgress(
                ours.spec.folder, ours.job.stage, stage.plan.attempts, num_total, num_done, name=ours.name
            )
            lines.append(shown.enter_context(line))
        for place, part in converse_all(works):
            lines[place].add(part)
            _warn_of_errors(part)


def input_unit_ids(spec: StageSpec, job: ConversationJob) -> pa.Array:
    """Every unit of work the input asks for, string array."""
    arrays = [job.expand(table)[ROW_ID].combine_chunks() for table in spec.source.tables(spec.unit_columns)]
    return pa.concat_arrays(arrays).cast(pa.string()) if arrays else pa.array([], pa.string())


def _warn_of_errors(part: PartRecord) -> None:
    num_errors = part.dropped_by_reason.get(DropReason.ROW_ERROR, 0)
    if num_errors:
        logger.warning("%d rows dropped with an unexpected error; see `detail` in the dropped files", num_errors)
