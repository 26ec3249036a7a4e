"""How a command ends: 0 ok, 1 bug, 2 bad config or input, 3 too many dropped rows, 4 a limit, 75 what a retry may mend.

Tested in tests/cluster/test_exit_codes.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from cai_ray.errors import LimitReached, RunIsTaken, causes
from cai_ray.lookup import without_keys
from cai_ray.stopping import hearing

EXIT_BAD_INPUT = 2
EXIT_TOO_MANY_DROPPED = 3
EXIT_LIMIT_REACHED = 4
EXIT_RETRYABLE = 75
# By name: importing Ray only to compare classes would cost every failing command two seconds.
RETRYABLE_RAY_ERRORS = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "NodeDiedError",
        "ObjectLostError",
        "OutOfMemoryError",
        "OwnerDiedError",
        "RayActorError",
        "WorkerCrashedError",
    }
)
# What the machine says of a path that a person gave, and what it may say otherwise another time.
BAD_PATH = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
)
PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT}
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
P = ParamSpec("P")
T = TypeVar("T")
errors = Console(stderr=True)


def edge(command: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors a person can mend into one message and an exit code; everything else is a bug and propagates."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with hearing():
                return command(*args, **kwargs)
        except LimitReached as reached:
            _tell(str(reached))
            raise typer.Exit(EXIT_LIMIT_REACHED) from None
        except RunIsTaken as taken:
            _tell(str(taken))
            raise typer.Exit(EXIT_RETRYABLE) from None
        except KeyboardInterrupt as stop:
            told = f"stopped by {str(stop) or 'Ctrl-C'}: what is done is kept; run the same command again to go on"
            _tell(told)
            raise typer.Exit(EXIT_RETRYABLE) from None
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            _tell(_message(error), "[bold red]error:[/] ")
            raise typer.Exit(code) from None

    return wrapped


def _tell(text: str, mark: str = "") -> None:
    """One message; keys that stand in a URI there are left out."""
    errors.print(f"{mark}{escape(without_keys(text))}", soft_wrap=True, highlight=False)


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that a command ends with; None for a bug."""
    from cai_ray.constitution.principles import ConstitutionError
    from cai_ray.errors import ClusterAway, ConfigError, EngineGaveUp, StorageAway, TooManyDropped

    for cause in causes(error):
        if isinstance(cause, ConfigError | ConstitutionError):
            return EXIT_BAD_INPUT
        if isinstance(cause, TooManyDropped):
            return EXIT_TOO_MANY_DROPPED
        if isinstance(cause, EngineGaveUp | ClusterAway | StorageAway) or type(cause).__name__ in RETRYABLE_RAY_ERRORS:
            return EXIT_RETRYABLE
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return EXIT_RETRYABLE
        if isinstance(cause, OSError) and cause.errno in BAD_PATH and cause.filename:
            return EXIT_BAD_INPUT
    return None


def _message(error: BaseException) -> str:
    from cai_ray.constitution.principles import ConstitutionError

    for cause in causes(error):
        if isinstance(cause, ConstitutionError):
            from cai_ray.constitution.source import explain

            return explain(cause)
    return str(causes(error)[-1] if type(error).__name__.startswith("RayTaskError") else error)
