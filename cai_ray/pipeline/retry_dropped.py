"""Dropped rows that are to be asked again: the first chosen stage that has any is opened again, those after it go.

Tested in tests/field/test_07_outage.py and tests/artifacts/test_reopened.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.artifacts.reopened import num_dropped, reopen
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DropReason
from cai_ray.errors import ConfigError
from cai_ray.stages.step import Step

# What passes, or hangs on settings that are in no fingerprint; an answer that was read and refused stays refused.
MAY_PASS = (
    DropReason.ENDPOINT_ERROR,
    DropReason.TIMEOUT,
    DropReason.ENGINE_KILLED,
    DropReason.ENGINE_HUNG,
    DropReason.REQUEST_REJECTED,
    DropReason.ROW_ERROR,
    DropReason.NO_LOGPROBS,
)


def reasons_of(given: str) -> list[str]:
    """The reasons in a comma-separated list. Raises ConfigError for one whose rows cannot be asked again."""
    found = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in found if name not in MAY_PASS]
    if wrong or not found:
        raise ConfigError(
            f"--retry-dropped {given!r}: {wrong[0] if wrong else 'no reason'!r} is no reason whose rows can be asked "
            f"again; name some of {', '.join(MAY_PASS)}"
        )
    return found


def first_with(reasons: Sequence[str], chosen: Sequence[Step], run: Storage) -> Step | None:
    """The first chosen step that dropped rows for one of the reasons and can ask them again."""
    for step in chosen if reasons else ():
        if step.units is not None and num_dropped(run / step.stage, reasons):
            return step
    return None


def ask_again(step: Step, reasons: Sequence[str], run: Storage) -> None:
    """Open the step's stage again for those rows."""
    assert step.units is not None
    reopen(run / step.stage, step.units, reasons)
