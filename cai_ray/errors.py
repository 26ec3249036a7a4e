"""Errors that end a command with a message and an exit code of their own (see cli.py).

Tested in tests/cluster/test_exit_codes.py.
"""

from __future__ import annotations


class ConfigError(Exception):
    """The recipe, constitution, model or input is wrong. Exit code 2; nothing was started.

    The message names the value, the rule and the fix.
    """


class TooManyDropped(Exception):
    """More rows were dropped than `max_dropped_fraction` allows. Exit code 3; the stage is committed."""


class ConservationError(Exception):
    """Rows in and rows accounted for differ (guarantee G1): a bug, exit code 1. Nothing was committed."""


class EngineGaveUp(RuntimeError):
    """The budget of engine restarts is used up (exit code 75): committed parts stay, a re-run goes on."""


class ClusterAway(RuntimeError):
    """No Ray cluster answers at the address (exit code 75): nothing was begun."""


class StorageAway(OSError):
    """An object store has not answered for a minute (exit code 75): committed parts stay, a re-run goes on."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C (exit code 75), by the signal's name: what is committed stays, a re-run goes on."""


class LimitReached(Stopped):
    """A limit of the recipe is reached (exit code 4): what is committed stays, a re-run with a higher one goes on."""


class RunIsTaken(Stopped):
    """Another driver works on this run (exit code 75): nothing was begun, or nothing more is committed here."""


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from; Ray wraps a worker's own error one or more times."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = getattr(at, "cause", None) or at.__cause__
    return found
