"""Only our words reach the terminal while a command runs; what libraries say lies in the log that the last line names.

In a process of its own: what is tried is who writes on which descriptor.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import logging, os, subprocess, sys, warnings

early = logging.StreamHandler()  # as Ray and vLLM have one from their import on
from cai_ray.commands.terminal import console, only_our_words, terminal
from cai_ray.progress.board import live_stages

def chatter():
    os.write(1, b"theirs: native, out\\n")
    os.write(2, b"theirs: native, error\\n")
    print("theirs: printed")
    print("theirs: a bar", file=sys.stderr)
    warnings.warn("theirs: FutureWarning", FutureWarning)
    logging.getLogger("httpx").warning("theirs: logged")
    logging.getLogger("httpx").info("HTTP Request: POST")
    own = logging.getLogger("library")
    own.propagate = False
    own.addHandler(early)
    own.warning("theirs: by a handler of its own")
    subprocess.run(["sh", "-c", "echo theirs: a child"], check=True)

@only_our_words
def work(say, fail):
    console.print("ours: the result")
    terminal.print("ours: the live view")
    logging.getLogger("cai_ray.stages").info("ours: a log line")
    with live_stages(["revise"]) as board:
        if board is not None:
            board.add_task("revise", total=3)
        if say:
            chatter()
        logging.getLogger("cai_ray.stages").info("ours: beside the view")
    if fail:
        raise ValueError("ours: the error")

try:
    work("say" in sys.argv, "fail" in sys.argv)
except ValueError as error:
    print(error, file=sys.stderr)
print("afterwards, out")
os.write(2, b"afterwards, error\\n")
"""
THEIRS = (
    "native, out", "native, error", "printed", "a bar", "FutureWarning", "logged", "by a handler of its own", "a child",
)  # fmt: skip


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-c", COMMAND, *arguments], {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize("fails", [False, True])
def test_the_words_of_libraries_lie_in_the_log_that_is_named(tmp_path: Path, fails: bool) -> None:
    done = run(tmp_path, "say", *(["fail"] if fails else []))
    [log] = tmp_path.glob("cai_ray-work-*.log")
    assert done.stdout.splitlines() == ["ours: the result", "afterwards, out"]
    view, line, beside, named, *rest = done.stderr.splitlines()
    assert view == "ours: the live view" and line.endswith(" ours: a log line")
    assert beside.endswith(" ours: beside the view")
    assert named == f"Log of the libraries: {log}"
    assert rest == [*(["ours: the error"] if fails else []), "afterwards, error"]
    written = log.read_text()
    assert all(f"theirs: {words}" in written for words in THEIRS)
    assert "HTTP Request" not in written and "the result" not in written
    assert ("Traceback" in written) == fails


def test_no_log_where_nobody_said_anything(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "Log of the libraries" not in done.stderr and not list(tmp_path.glob("cai_ray-*.log"))


def test_nor_does_anything_of_theirs_stand_beside_the_live_view_of_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "say"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TMPDIR": str(tmp_path), "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "ours: beside the view" in text and "revise" in text and "ours: the result" in text
    assert "theirs:" not in text and "Log of the libraries: " in text
