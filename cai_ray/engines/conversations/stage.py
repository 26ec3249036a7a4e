"""The life of a stage that is made of conversations: open, what is left, converse, commit.

Tested in tests/cluster/test_together.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from cai_ray.artifacts.allowance import Allowance, Spent
from cai_ray.artifacts.artifact import Artifact, OpenStage, StageSpec, open_stage
from cai_ray.artifacts.parts import PartRecord
from cai_ray.artifacts.spending import spent
from cai_ray.config import ModelConfig, ScalingConfig
from cai_ray.dropped import DropReason
from cai_ray.engines.cluster import ClusterConfig, connected, gpus_per_engine
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.pool import Work, converse_all
from cai_ray.engines.conversations.units import Units, left_of, units_of
from cai_ray.engines.models.thinking import Doubt
from cai_ray.errors import LimitReached
from cai_ray.progress.stage import StageProgress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversations:
    """A stage's job, what it reads, and the model that it asks.

    Attributes:
        unit_columns: of an input row, what `job.expand` needs to name its units.
        settle: runs once all rows are there and may move rows to Dropped (data-set-wide gates).
        name: in progress lines, where a stage has several.
    """

    spec: StageSpec
    source: Artifact
    unit_columns: tuple[str, ...]
    job: ConversationJob
    model: ModelConfig
    scaling: ScalingConfig
    settle: Callable[[OpenStage], None] | None = None
    name: str = ""


def run_conversations(asked: Conversations, cluster: ClusterConfig) -> Artifact:
    """Converse every unit of work that is not committed yet, then commit the stage."""
    (artifact,) = run_together([asked], cluster)
    return artifact


def run_together(asked: Sequence[Conversations], cluster: ClusterConfig) -> list[Artifact]:
    """`run_conversations` of several, at the same time, each on engines of its own; their artifacts in order."""
    opened = [_open(ours) for ours in asked]
    _converse([one for one in opened if isinstance(one, _Begun)], cluster)
    return [one.commit() if isinstance(one, _Begun) else one for one in opened]


@dataclass(frozen=True)
class _Begun:
    """Conversations whose stage is not committed yet."""

    asked: Conversations
    stage: OpenStage
    units: Units

    def commit(self) -> Artifact:
        if self.asked.settle is not None:
            self.asked.settle(self.stage)
        return self.stage.commit(self.units.ids)


def _open(asked: Conversations) -> _Begun | Artifact:
    opened = open_stage(asked.spec)
    return opened if isinstance(opened, Artifact) else _Begun(asked, opened, units_asked(asked))


def _converse(begun: Sequence[_Begun], cluster: ClusterConfig) -> None:
    """What is left of the units of work, all at once. Starts nothing where nothing is left."""
    left = [(one, files) for one in begun if (files := left_of(one.units, one.stage.done_ids))]
    if not left:
        return
    allowance = _left_to_spend(left[0][0].asked.spec.allowance)
    with connected(cluster), ExitStack() as shown:
        works, lines = [], []
        for one, files in left:
            asked, stage, model = one.asked, one.stage, one.asked.model
            works.append(
                Work(
                    job=_measured(asked.job, len(one.units.ids)),
                    source=asked.source.folder,
                    files=files,
                    folder=stage.folder,
                    scaling=asked.scaling,
                    lease=asked.spec.lease,
                    allowance=allowance,
                    price=model.endpoint.price if model.endpoint else None,
                    is_served=model.endpoint is not None,
                    num_gpus_per_engine=0.0 if model.endpoint else gpus_per_engine(model.engine),
                )
            )
            num_units = len(one.units.ids)
            num_done = num_units - sum(file.num_left for file in files)
            line = StageProgress(
                stage.folder,
                asked.spec.stage,
                stage.plan.attempts,
                num_units,
                num_done,
                name=asked.name,
                most_tokens=allowance.tokens if allowance else None,
            )
            lines.append(shown.enter_context(line))
        for place, part in converse_all(works):
            lines[place].add(part)
            _warn_of_errors(part)
            _warn_of_doubts(left[place][0].asked.spec.stage, part)


def _measured(job: ConversationJob, num_units: int) -> ConversationJob:
    """The job with its share of rows that are measured."""
    rows = num_units if job.measured_rows is None else job.measured_rows
    return replace(job, measured_share=min(1.0, rows / max(1, num_units)))


def _left_to_spend(allowance: Allowance | None) -> Allowance | None:
    """Of the stage's allowance, after what its earlier pieces took. Raises LimitReached where nothing is left."""
    if allowance is None:
        return None
    now = spent(allowance.folder)
    since = Spent(now.tokens - allowance.before.tokens, now.microdollars - allowance.before.microdollars)
    if (reached := allowance.reached(since)) is not None:
        raise LimitReached(reached)
    return allowance.less(since)


def units_asked(asked: Conversations) -> Units:
    """Every unit of work the input asks for."""
    return units_of(asked.source, asked.unit_columns, asked.job.expand)


def _warn_of_errors(part: PartRecord) -> None:
    num_errors = part.dropped_by_reason.get(DropReason.ROW_ERROR, 0)
    if num_errors:
        logger.warning("%d rows dropped with an unexpected error; see `detail` in the dropped files", num_errors)


def _warn_of_doubts(stage: str, part: PartRecord) -> None:
    for doubt in Doubt:
        if part.counters.get(doubt):
            logger.warning("%s: %s", stage, doubt.sentence)
