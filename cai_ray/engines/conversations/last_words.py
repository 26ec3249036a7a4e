"""What an engine said before it died, and whether that means that it cannot run this model at all.

An engine's processes write where its actor writes: into files of Ray's logs, which the actor's own descriptors name.

Tested in tests/engines/conversations/test_last_words.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

NUM_LINES = 30
MOST_SHOWN = 8
# What loggers and process names put before a line.
_PREFIX = re.compile(r"^(?:\([^)]*\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d: .-]+\[[^]]*\] ?)?")
_FRAME = re.compile(r'\s*File ".*", line \d+')
_MOST_BYTES = 20_000
# What engines say of models, shapes and settings that no further start makes right.
_CANNOT = re.compile(
    r"not supported|unsupported|does not support|NotImplementedError|no kernel|head.?(?:size|dim)|not implemented",
    re.IGNORECASE,
)


def logs() -> list[Path]:
    """The files that this process's stdout and stderr go to."""
    found = [
        Path(os.readlink(f"/proc/self/fd/{number}")) for number in (1, 2) if Path(f"/proc/self/fd/{number}").exists()
    ]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def last_lines(paths: Sequence[Path], num_lines: int = NUM_LINES) -> list[str]:
    """The last lines of each file that has any, in order."""
    found: list[str] = []
    for path in paths:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            found += [line for line in file.read().decode(errors="replace").splitlines() if line.strip()][-num_lines:]
    return found[-num_lines:]


def cannot_run(lines: Sequence[str]) -> bool:
    """Whether the engine says that it cannot run this model or these settings."""
    return any(_CANNOT.search(line) for line in lines)


def without_traces(lines: Sequence[str]) -> list[str]:
    """What the lines say, each once, without the frames of tracebacks; those are in the log."""
    said: list[str] = []
    is_code = False  # the line behind a frame
    for line in lines:
        words = _PREFIX.sub("", line).rstrip()
        is_frame = _FRAME.match(words) is not None
        is_mark = not words.strip("^~ ") or words.startswith("Traceback (most recent call last)")
        if not is_frame and not is_mark and not is_code and words not in said:
            said.append(words)
        is_code = is_frame
    return said


def told(paths: Sequence[Path], lines: Sequence[str]) -> str:
    """What the lines say and where they stand, for a message; what there is of both."""
    where = ", ".join(map(str, paths))
    said = "\n".join(f"  {line}" for line in without_traces(lines)[-MOST_SHOWN:])
    return "\n".join(
        part for part in (f"its last words:\n{said}" if said else "", f"its log: {where}" if where else "") if part
    )
