"""An engine's last words: the end of the files it writes to, and whether they say that it can never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.engines.conversations.last_words import cannot_run, last_lines, told, without_traces


def test_the_end_of_each_file_is_kept(tmp_path: Path) -> None:
    log, empty = tmp_path / "worker.err", tmp_path / "worker.out"
    log.write_text("".join(f"line {k}\n\n" for k in range(5000)))
    empty.write_text("")
    lines = last_lines([empty, log], num_lines=3)
    assert lines == ["line 4997", "line 4998", "line 4999"]
    message = told([log], lines)
    assert str(log) in message and "line 4999" in message
    assert told([], []) == ""


@pytest.mark.parametrize(
    ("line", "cannot"),
    [
        ("ValueError: Head size 48 is not supported by CPUAttention.", True),
        ("NotImplementedError: no CPU path", True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", False),
    ],
)
def test_words_that_no_restart_mends(line: str, cannot: bool) -> None:
    assert cannot_run(["INFO started", line]) == cannot


def test_a_traceback_is_its_last_line() -> None:
    lines = [
        "(EngineCore pid=7) ERROR 11-27 08:35:56 [core.py:91] EngineCore failed to start.",
        "(EngineCore pid=7) Traceback (most recent call last):",
        '(EngineCore pid=7)   File "/a/core.py", line 3, in run',
        "(EngineCore pid=7)     self.start()",
        "(EngineCore pid=7)     ^^^^^^^^^^^^",
        "(EngineCore pid=7) ValueError: The model's max seq len is larger than the KV cache holds.",
        "(EngineCore pid=7) ValueError: The model's max seq len is larger than the KV cache holds.",
    ]
    assert without_traces(lines) == [
        "EngineCore failed to start.",
        "ValueError: The model's max seq len is larger than the KV cache holds.",
    ]


def test_the_cause_is_shown_wherever_it_stands(tmp_path: Path) -> None:
    """Standard output is the first file, and a library's chatter follows the error."""
    out, err = tmp_path / "worker.out", tmp_path / "worker.err"
    frames = '(EngineCore pid=7) ERROR 11-27 09:49:21 [core.py:1512]   File "/a/b.py", line 1, in f\n'
    frames += "(EngineCore pid=7) ERROR 11-27 09:49:21 [core.py:1512]     return f()\n"
    cause = "RuntimeError: Unsupported CPU attention configuration: head_dim=16"
    dead = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore died. See stack trace (above) for the root cause."
    prefix = "(EngineCore pid=7) ERROR 11-27 09:49:21 [core.py:1512] "
    out.write_text(f"{frames * 40}{prefix}{cause}\n{frames * 40}{prefix}{dead}\n")
    err.write_text("".join(f"chatter {k}\n" for k in range(50)))
    lines = last_lines([out, err])
    assert cannot_run(lines)
    assert told([], lines) == f"its last words:\n  {cause}"


def test_without_an_error_the_last_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_text("".join(f"chatter {k}\n" for k in range(50)))
    assert told([], last_lines([log])).splitlines()[-1] == "  chatter 49"
