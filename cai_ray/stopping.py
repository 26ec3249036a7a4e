"""SIGTERM and Ctrl-C: what is done is committed, what is under way is left, and the command ends as one to repeat.

A handler may only raise. So the first signal either raises `Stopped` at once, or, while rows are being made
(`draining`), asks for an orderly end of them and raises when that takes longer than DRAIN_LIMIT_S; a second signal
raises at once. Ray takes the signals over when it connects: `rehear` takes them back.

Tested in tests/field/test_26_stopped.py.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from cai_ray.errors import Stopped

DRAIN_LIMIT_S = 8.0  # of the twenty or thirty seconds that schedulers give
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Hearing:
    """What this process does with a signal."""

    def __init__(self) -> None:
        self.is_on = False
        self.drain: Callable[[], None] | None = None
        self.heard: str | None = None  # the signal that a drain answers to
        self.cause: Stopped | None = None  # what stops the main thread in place of a signal from outside
        self.limit: threading.Timer | None = None


_hearing = _Hearing()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handle(number: int, frame: FrameType | None) -> None:
    if _hearing.cause is not None:
        raise _hearing.cause
    name = signal.Signals(number).name
    if _hearing.drain is None or _hearing.heard is not None:
        raise Stopped(_hearing.heard or name)
    _hearing.heard = name
    # Threads, because nothing that takes a lock may run in a handler.
    threading.Thread(target=_hearing.drain, name="stop", daemon=True).start()
    main = threading.main_thread().ident
    assert main is not None
    _hearing.limit = threading.Timer(DRAIN_LIMIT_S, lambda: signal.pthread_kill(main, number))
    _hearing.limit.daemon = True
    _hearing.limit.start()


@contextmanager
def hearing() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise Stopped within; as before afterwards. Only the main thread can hear."""
    if not _in_main_thread() or _hearing.is_on:
        yield
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    _hearing.is_on = True
    rehear()
    try:
        yield
    finally:
        _hearing.is_on, _hearing.heard, _hearing.cause = False, None, None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def stop_with(cause: Stopped) -> None:
    """Raise `cause` in the main thread, at once, from any thread; nothing outside `hearing`."""
    main = threading.main_thread().ident
    if _hearing.is_on and main is not None:
        _hearing.cause = cause
        signal.pthread_kill(main, signal.SIGTERM)


def rehear() -> None:
    """Take the signals back from a library that has set handlers of its own; nothing outside `hearing`."""
    if _hearing.is_on and _in_main_thread():
        for number in SIGNALS:
            signal.signal(number, _handle)


@contextmanager
def draining(drain: Callable[[], None]) -> Iterator[None]:
    """The first signal within calls `drain`, on another thread, and the block has DRAIN_LIMIT_S to end by itself.

    Raises Stopped at its end when a signal was heard.
    """
    _hearing.drain = drain
    ended: Stopped | None = None
    try:
        yield
    except Stopped as stop:  # from where the rows ended, which does not know the signal's name
        ended = stop
    finally:
        _hearing.drain = None
        if _hearing.limit is not None:
            with suppress(Stopped):  # it may be firing right now
                _hearing.limit.cancel()
            _hearing.limit = None
    if _hearing.heard is not None:
        raise Stopped(_hearing.heard) from ended
    if ended is not None:
        raise ended
