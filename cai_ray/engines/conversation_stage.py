"""The life of a stage that is made of conversations: open, what is left, converse, commit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.config import ModelConfig, ScalingConfig
from cai_ray.engines.artifacts import Artifact, OpenStage, open_stage
from cai_ray.engines.cluster import ClusterConfig, connected, gpus_per_engine
from cai_ray.engines.generation import ROW_ID, ConversationJob, converse_all
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
    opened = open_stage(
        spec.folder,
        job.stage,
        spec.fingerprint,
        spec.config,
        {spec.source.manifest.stage: spec.source.manifest.fingerprint},
        spec.row_ids,
        spec.key_columns,
    )
    if isinstance(opened, Artifact):
        return opened
    unit_ids = input_unit_ids(spec, job)
    num_left = len(unit_ids) - (pc.sum(pc.is_in(unit_ids, value_set=opened.done_ids)).as_py() or 0)
    if num_left:
        with (
            connected(cluster),
            StageProgress(
                spec.folder, job.stage, opened.plan.attempts, len(unit_ids), len(unit_ids) - num_left
            ) as progress,
        ):
            num_gpus = 0.0 if model.endpoint else gpus_per_engine(model.engine.tensor_parallel_size)
            source = spec.source
            for part in converse_all(
                job, source.paths(), source.folder.filesystem, spec.folder, opened.done_ids, scaling, num_gpus
            ):
                progress.add(part)
                _warn_of_errors(part)
    if settle is not None:
        settle(opened)
    return opened.commit(unit_ids)


def input_unit_ids(spec: StageSpec, job: ConversationJob) -> pa.Array:
    """Every unit of work the input asks for, string array."""
    arrays = [job.expand(table)[ROW_ID].combine_chunks() for table in spec.source.tables(spec.unit_columns)]
    return pa.concat_arrays(arrays).cast(pa.string()) if arrays else pa.array([], pa.string())


def _warn_of_errors(part: PartRecord) -> None:
    num_errors = part.dropped_by_reason.get(DropReason.ROW_ERROR, 0)
    if num_errors:
        logger.warning("%d rows dropped with an unexpected error; see `detail` in the dropped files", num_errors)
