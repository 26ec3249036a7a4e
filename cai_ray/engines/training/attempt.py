"""One run of a training stage's driver, as its folder knows it: who may write, and how its workers ended.

Tested in tests/cluster/test_training.py.
"""

from __future__ import annotations

import time
import uuid
from typing import Literal

from cai_ray.artifacts.metrics_file import next_attempt
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config

OWNER = "attempt.json"
FAILED = "failed.json"


class Attempt(Config):
    """Workers may start several times within it."""

    number: int  # >= 1
    started_at: float  # seconds since the epoch
    nonce: str


class Verdict(Config):
    """How training ended, as told by the first worker."""

    outcome: Literal["trained", "stopped", "diverged", "bad_config", "failed"]
    message: str = ""
    nonce: str = ""  # of the attempt


class Superseded(Exception):
    """Another run of this stage has begun; this one must not write any more."""


def begin(folder: Storage) -> Attempt:
    """A new attempt, which the folder belongs to from here on.

    Workers can outlive a killed driver by seconds; what they would still write is refused (`check_owner`).
    """
    attempt = Attempt(number=next_attempt(folder), started_at=time.time(), nonce=uuid.uuid4().hex)
    folder.write(OWNER, attempt.model_dump_json().encode())
    return attempt


def end(folder: Storage) -> None:
    folder.delete(OWNER)
    folder.delete(FAILED)


def check_owner(folder: Storage, attempt: Attempt) -> None:
    """Raises Superseded."""
    if not folder.exists(OWNER) or Attempt.model_validate_json(folder.read(OWNER)).nonce != attempt.nonce:
        raise Superseded(f"another run has begun in {folder.shown}, and this one ends; run a stage once at a time")


def tell_failure(folder: Storage, attempt: Attempt, verdict: Verdict) -> None:
    """For the driver, and for workers that are started again: starting them again cannot mend it."""
    folder.write(FAILED, verdict.model_copy(update={"nonce": attempt.nonce}).model_dump_json().encode())


def failure(folder: Storage, attempt: Attempt) -> Verdict | None:
    """What a worker of this attempt told by `tell_failure`."""
    if not folder.exists(FAILED):
        return None
    verdict = Verdict.model_validate_json(folder.read(FAILED))
    return verdict if verdict.nonce == attempt.nonce else None
