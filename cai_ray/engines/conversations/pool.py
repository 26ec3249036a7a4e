"""The pools of engines that do a stage's conversations, as one Ray Data pipeline: read, converse, commit.

The driver sees only records of committed parts, so that its memory does not grow with the rows.

Tested in tests/cluster/test_together.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.allowance import Allowance
from cai_ray.artifacts.lease import Lease
from cai_ray.artifacts.parts import PartRecord, records_of
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Price, ScalingConfig
from cai_ray.engines.conversations.ending import LEFT, Ending, ask_to_stop, parted, raise_first
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.conversations.outcomes import commit_outcomes
from cai_ray.engines.conversations.purse import Purse
from cai_ray.engines.conversations.read_ahead import ReadAhead, most_ahead
from cai_ray.engines.conversations.row_gate import share_of_tasks, tasks_in_flight
from cai_ray.engines.conversations.units import FileLeft, read_units, reading_tasks
from cai_ray.engines.groups import Groups, given_back
from cai_ray.engines.peers import Peers, forgetting
from cai_ray.engines.placement import actor_options
from cai_ray.errors import RunIsTaken
from cai_ray.stopping import draining

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True)
class Work:
    """A job, and where its rows come from and go to."""

    job: ConversationJob
    source: Storage
    files: Sequence[FileLeft]  # of the source: what is not committed yet
    folder: Storage
    scaling: ScalingConfig
    num_gpus_per_engine: float
    lease: Lease | None = None  # checked before each part is committed
    allowance: Allowance | None = None  # what may be spent from here on
    price: Price | None = None
    is_served: bool = False  # by an endpoint: all engines ask the same server, and none is slower than another


def converse_all(works: Sequence[Work]) -> Iterator[tuple[int, PartRecord]]:
    """Do what is left of all works at the same time, each on a pool of its own.

    Yields each part as it commits, with the place in `works` that it belongs to. Needs a connected Ray
    (engines/cluster.py). Raises, once what is done is committed, EngineGaveUp when a restart budget is used up or a
    server is away, ConfigError when an engine or a server can never answer, Stopped after SIGTERM or Ctrl-C,
    LimitReached.
    """
    key = uuid.uuid4().hex
    ahead = [ReadAhead(most_ahead(work.job.engine, work.scaling)) for work in works]
    peers = [Peers(f"{key}:{place}") for place in range(len(works))]
    groups = [_groups(work) for work in works]
    first, *others = [
        _records(work, place, key, ahead[place], peers[place], groups[place]) for place, work in enumerate(works)
    ]
    num_done = [0] * len(works)
    endings: list[Ending] = []
    ended: set[int] = set()  # places whose work is over before its rows are
    with draining(ask_to_stop), forgetting(peers), given_back(groups):
        for batch in (first.union(*others) if others else first).iter_batches(batch_format="pyarrow", batch_size=None):
            for place, texts in zip(batch["place"].to_pylist(), batch[LEFT].to_pylist(), strict=True):
                endings += [Ending.model_validate_json(text) for text in texts]
                if texts:
                    ended.add(place)
                    ahead[place].end()
            made = batch.filter(pc.is_valid(batch["record"]))
            for place, record in zip(made["place"].to_pylist(), records_of(made), strict=True):
                num_done[place] += record.num_rows + record.num_dropped + record.num_left_out
                if place not in ended:
                    ahead[place].tell(num_done[place])
                yield place, record
        raise_first(endings)


def _groups(work: Work) -> Groups | None:
    """None for engines that are actors with GPUs of their own."""
    engine, scaling = work.job.engine, work.scaling
    if engine.pipeline_parallel_size == 1 or not work.num_gpus_per_engine:
        return None
    return Groups(engine, scaling, scaling.cpus_per_engine)


def _records(work: Work, place: int, key: str, ahead: ReadAhead, peers: Peers, groups: Groups | None) -> Dataset:
    """The records of one work's parts, for the driver; nothing runs yet. `key`: see Purse."""
    import ray

    job, scaling = work.job, work.scaling
    source, folder, expand, lease = work.source, work.folder, job.expand, work.lease
    num_left = sum(file.num_left for file in work.files)
    num_tasks = min(tasks_in_flight(job.engine, scaling), share_of_tasks(scaling, num_left))
    purse = Purse(work.allowance, work.price, key)

    def read(task: pa.Table) -> Iterator[pa.Table]:
        return read_units(source, task, expand) if ahead.wait(task["start"][0].as_py()) else iter(())

    def commit(batch: pa.Table) -> pa.Table:
        done, endings = parted(batch)
        if lease is not None:
            try:
                lease.check()
            except RunIsTaken as taken:
                done, endings = done.slice(0, 0), [Ending(kind="taken", message=str(taken))]
        record = commit_outcomes(folder, job.schema, done).model_dump_json() if done.num_rows else None
        return pa.table(
            {
                "place": [place],
                "record": pa.array([record], pa.string()),
                LEFT: pa.array([[ending.model_dump_json() for ending in endings]], pa.list_(pa.string())),
            }
        )

    return (
        # Not `read_parquet`, which looks at the files first, in processes of its own, and makes sixteen blocks and more
        # of any size. One operator, because `map_batches` and `repartition` with the same resources become one.
        ray.data.from_blocks(reading_tasks(work.files))
        .map_batches(read, batch_format="pyarrow", batch_size=1)
        .repartition(target_num_rows_per_block=scaling.rows_per_task)
        .map_batches(
            ConversationActor,
            fn_constructor_args=(job, folder, purse, None if work.is_served or scaling.max_engines == 1 else peers),
            batch_format="pyarrow",
            batch_size=scaling.rows_per_task,
            compute=ray.data.ActorPoolStrategy(
                min_size=scaling.min_engines,
                max_size=scaling.max_engines,
                max_tasks_in_flight_per_actor=num_tasks,
            ),
            max_concurrency=num_tasks,
            num_cpus=scaling.cpus_per_engine,
            num_gpus=0 if groups else work.num_gpus_per_engine,
            ray_remote_args_fn=groups.options if groups else None,
            **({} if groups else actor_options(scaling)),
            # Ray Data's defaults are unlimited: a node that keeps dying would keep the job alive for ever.
            # Retries of a task are bounded by the restarts of its actor; counted, they are used up in the seconds
            # before Ray finds out that a node is gone.
            max_restarts=scaling.max_actor_restarts,
            max_task_retries=-1,
        )
        .map_batches(commit, batch_format="pyarrow", batch_size=scaling.rows_per_part, num_cpus=0.25)
    )
