"""How a stage of conversations ends before its rows do: what is done is committed first, then the cause is raised.

Rows under way when an engine, a server or the run ends are neither out nor dropped: they are left, and the next run
asks them. An engine actor says so in the outcomes themselves, because an exception would take finished rows with it.

Tested in tests/engines/conversations/test_generation.py.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.config import Config
from cai_ray.errors import ConfigError, EngineGaveUp, LimitReached, RunIsTaken, Stopped
from cai_ray.rows import ROW_ID

LEFT = "left"  # column of outcomes: an Ending as JSON, null for a row that came to its own end
STOP_KEY = "cai_ray:stop:"  # in Ray's key-value store, before the job's id

# What a person has to mend comes before what passes.
ERRORS: dict[str, type[BaseException]] = {
    "config": ConfigError,
    "taken": RunIsTaken,
    "gave_up": EngineGaveUp,
    "stopped": Stopped,
    "limit": LimitReached,
}


class Ending(Config):
    """Why rows were left."""

    kind: Literal["config", "taken", "gave_up", "stopped", "limit"]
    message: str

    @classmethod
    def of(cls, error: ConfigError | EngineGaveUp) -> Ending:
        return cls(kind="config" if isinstance(error, ConfigError) else "gave_up", message=str(error))

    def error(self) -> BaseException:
        """What the driver raises."""
        return ERRORS[self.kind](self.message)


def left_row(row_id: str, ending: Ending) -> dict[str, object]:
    """An outcome that is none."""
    return {ROW_ID: row_id, "row": None, "dropped": None, "counters": [], LEFT: ending.model_dump_json()}


def parted(outcomes: pa.Table) -> tuple[pa.Table, list[Ending]]:
    """The outcomes that are some, and the different endings of the others."""
    endings = [Ending.model_validate_json(text) for text in pc.unique(outcomes[LEFT]).to_pylist() if text is not None]
    return (outcomes.filter(pc.is_null(outcomes[LEFT])), endings) if endings else (outcomes, [])


def raise_first(endings: list[Ending]) -> None:
    """Raise what a person has to mend before what passes; nothing without endings."""
    if endings:
        raise min(endings, key=lambda ending: list(ERRORS).index(ending.kind)).error()


def ask_to_stop() -> None:
    """Have every engine actor of this driver's job leave the rows that it holds."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_stop_key(), b"1", overwrite=True)


def is_asked_to_stop() -> bool:
    """Whether the driver of this actor's job has asked; False outside Ray."""
    import ray
    from ray.experimental import internal_kv

    if not ray.is_initialized():
        return False
    return bool(internal_kv._internal_kv_exists(_stop_key()))


def _stop_key() -> bytes:
    import ray

    return f"{STOP_KEY}{ray.get_runtime_context().get_job_id()}".encode()
