"""What every command writes on: the terminal for our own words, a log file for those of the libraries.

Ray, vLLM, transformers, DeepSpeed and TRL write where they like: by `logging`, `warnings`, progress bars, `print`, and
from C++ straight to file descriptor 2. So a command that takes time keeps the terminal for itself, and everybody else's
standard output and error, by Python name and by descriptor, is a file of its own.

Tested in tests/commands/test_terminal.py and tests/cluster/test_quickstart.py.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from cai_ray.progress.board import terminal

console = Console()
P = ParamSpec("P")
T = TypeVar("T")
OUT, ERR = 1, 2
OURS = logging.Filter("cai_ray")


def only_our_words(command: Callable[P, T]) -> Callable[P, T]:
    """While the command runs, only what we say reaches the terminal: `console`, `terminal` and our own log lines.

    What libraries say goes to a file, as do the traces of errors. A last line on standard error names the file when
    there is anything in it; an empty one is deleted. Errors propagate.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        descriptor, path = tempfile.mkstemp(prefix=f"cai_ray-{command.__name__}-", suffix=".log")
        try:
            with open(descriptor, "w", buffering=1, encoding="utf-8", errors="replace") as log, _apart(log):
                try:
                    return command(*args, **kwargs)
                except typer.Exit:  # an end that was told already
                    raise
                except BaseException:
                    log.write(traceback.format_exc())
                    raise
        finally:
            _tell(Path(path))

    return wrapped


def _tell(log: Path) -> None:
    if log.stat().st_size:
        terminal.print(f"Log of the libraries: {log}", soft_wrap=True, highlight=False, markup=False)
    else:
        log.unlink()


@contextmanager
def _apart(log: TextIO) -> Iterator[None]:
    """Ours to the terminal, theirs to the log, while the block runs."""
    with ExitStack() as stack:
        screen, notes = (stack.enter_context(_own(stream)) for stream in (sys.stdout, sys.stderr))
        for number in (OUT, ERR):
            stack.enter_context(_descriptor_to(number, log))
        for ours, stream in ((console, screen), (terminal, notes)):
            stack.enter_context(_written_to(ours, stream))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        stack.enter_context(_logged(notes, log))
        yield


@contextmanager
def _own(stream: TextIO) -> Iterator[TextIO]:
    """The stream on a descriptor of its own where it is on one that is given away; else itself."""
    stream.flush()
    number = None
    with suppress(OSError):  # a stream in memory has none
        number = stream.fileno()
    if number not in (OUT, ERR):
        yield stream
        return
    encoding, errors = stream.encoding, stream.errors
    with open(os.dup(number), "w", buffering=1, encoding=encoding, errors=errors) as own:
        yield own


@contextmanager
def _descriptor_to(number: int, log: TextIO) -> Iterator[None]:
    kept = os.dup(number)
    try:
        os.dup2(log.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@contextmanager
def _written_to(ours: Console, stream: TextIO) -> Iterator[None]:
    """A console follows sys.stdout or sys.stderr by itself; not while these are the log."""
    ours.file = stream
    try:
        yield
    finally:
        ours.file = None  # type: ignore[assignment]  # what rich itself begins with


@contextmanager
def _logged(notes: TextIO, log: TextIO) -> Iterator[None]:
    """Our log lines beside the live board on a terminal, plain ones elsewhere; all other warnings to the log."""
    on_screen: logging.Handler
    if notes.isatty():
        on_screen = RichHandler(console=terminal, show_path=False, markup=False)
        on_screen.setFormatter(logging.Formatter("%(message)s"))
    else:
        on_screen = logging.StreamHandler(notes)
        on_screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    on_screen.addFilter(OURS)
    in_file = logging.StreamHandler(log)
    in_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    in_file.addFilter(lambda record: record.levelno >= logging.WARNING and not OURS.filter(record))
    root, words = logging.getLogger(), logging.getLogger("cai_ray")
    before = words.level
    words.setLevel(logging.INFO)
    for handler in (on_screen, in_file):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (on_screen, in_file):
            root.removeHandler(handler)
        words.setLevel(before)
