"""Reading no further ahead of the engines than they need.

Rows that were read wait in the driver's memory (Ray keeps small blocks with their owner) and in the object store, and
reading is a thousand times as fast as an engine: unbounded, all of a large input would wait there. So the driver tells
how many rows are done, and a task that reads waits for its turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import uuid4

from cai_ray.config import EngineConfig, ScalingConfig
from cai_ray.engines.conversations.ending import is_asked_to_stop
from cai_ray.engines.conversations.row_gate import tasks_in_flight
from cai_ray.engines.conversations.units import UNITS_PER_READ

POLL_S = 0.2
MOST_WAIT_S = 300.0  # then it is read anyway: a task that is made again after a node's loss must not wait for ever
END = b"end"


def most_ahead(engine: EngineConfig, scaling: ScalingConfig) -> int:
    """Units that may be read and not done: those that engines and parts hold, and as many again three times."""
    held = scaling.max_engines * tasks_in_flight(engine, scaling) * scaling.rows_per_task
    return 4 * (held + scaling.rows_per_part + UNITS_PER_READ)


@dataclass(frozen=True)
class ReadAhead:
    """Of one work: how far reading may be ahead of what is done, units."""

    most_units: int
    name: str = field(default_factory=lambda: f"cai_ray:read:{uuid4().hex}")  # in Ray's key-value store

    def tell(self, num_done: int) -> None:
        """The driver: so many units are done."""
        self._put(str(num_done).encode())

    def end(self) -> None:
        """The driver: nothing more is to be read."""
        self._put(END)

    def _put(self, value: bytes) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(self.name, value, overwrite=True)

    def wait(self, start: int) -> bool:
        """A reading task, before it reads the units from `start` on. False: it reads nothing."""
        from ray.experimental import internal_kv

        until = time.monotonic() + MOST_WAIT_S
        while True:
            told = internal_kv._internal_kv_get(self.name)
            if told == END or is_asked_to_stop():
                return False
            if start <= int(told or 0) + self.most_units or time.monotonic() > until:
                return True
            time.sleep(POLL_S)
