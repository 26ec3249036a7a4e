"""What an engine said before it died, and whether that means that it cannot run this model at all.

An engine's processes write where its actor writes: into files of Ray's logs, which the actor's own descriptors name.

Tested in tests/engines/conversations/test_last_words.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cai_ray.errors import ConfigError, EngineGaveUp

NUM_LINES = 30
MOST_SHOWN = 8
# What loggers and process names put before a line.
_PREFIX = re.compile(r"^(?:\([^)]*\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d: .-]+\[[^]]*\] ?)?")
_FRAME = re.compile(r'\s*File ".*", line \d+')
_MOST_BYTES = 100_000
_CAUSE = re.compile(r"(?:[\w.]+(?:Error|Exception)|terminate called|\s*what\(\)|Fatal Python error|Bus error)\b")
_ELSEWHERE = re.compile(r"see (?:stack trace|root cause)", re.IGNORECASE)  # an error that only points at another one
# What engines say of models, shapes and settings that no further start makes right.
_CANNOT = re.compile(
    r"not supported|unsupported|does not support|NotImplementedError|no kernel|head.?(?:size|dim)|not implemented|"
    r"larger than the (?:available|maximum)[\w ]*KV cache|max(?:imum)? (?:seq|model)[ _]len|"
    r"No available memory for the cache|"
    r"shape mismatch|size mismatch|Attempted to load weight|SafetensorError|HeaderTooLarge|must be divisible",
    re.IGNORECASE,
)


def logs() -> list[Path]:
    """The files that this process's stdout and stderr go to."""
    found = [
        Path(os.readlink(f"/proc/self/fd/{number}")) for number in (1, 2) if Path(f"/proc/self/fd/{number}").exists()
    ]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def last_lines(paths: Sequence[Path], num_lines: int = NUM_LINES) -> list[str]:
    """The last lines of each file that has any, in order, without the frames of tracebacks."""
    found: list[str] = []
    for path in paths:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            found += without_traces(file.read().decode(errors="replace").splitlines())[-num_lines:]
    return found


def cannot_run(lines: Sequence[str]) -> bool:
    """Whether the engine says that it cannot run this model or these settings."""
    return any(_CANNOT.search(line) for line in lines)


def without_traces(lines: Sequence[str]) -> list[str]:
    """What the lines say, each once, without empty ones and the frames of tracebacks; those are in the log."""
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
    """The errors among the lines, or the last of them, and where they stand, for a message; what there is of both."""
    where = ", ".join(map(str, paths))
    causes = [line for line in lines if _CAUSE.match(line) and not _ELSEWHERE.search(line)]
    said = "\n".join(f"  {line}" for line in list(dict.fromkeys(causes or lines))[-MOST_SHOWN:])
    return "\n".join(
        part for part in (f"its last words:\n{said}" if said else "", f"its log: {where}" if where else "") if part
    )


def given_up(problem: str) -> ConfigError | EngineGaveUp:
    """The end of an engine that never answered, in its own words: to be mended where they say that it cannot run."""
    paths = logs()
    lines = last_lines(paths)
    message = f"{problem}; {told(paths, lines)}"
    if cannot_run(lines):
        return ConfigError(f"{message}\nChoose another model, dtype or engine setting")
    return EngineGaveUp(message)
