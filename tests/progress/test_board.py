"""The live view of a run's stages: one board, whoever reports progress."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cai_ray.artifacts.parts import FileRecord, PartRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.progress import board as live
from cai_ray.progress.board import terminal_bar
from cai_ray.progress.stage import StageProgress


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a terminal would be sent; code that shows progress believes that there is one."""
    text = io.StringIO()
    monkeypatch.setattr(live, "terminal", Console(file=text, force_terminal=True, width=120, color_system=None))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    yield text


def last_picture(text: io.StringIO, num_lines: int) -> list[str]:
    plain = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", text.getvalue())
    return [line.strip() for line in plain.splitlines() if line.strip()][-num_lines:]


def part(num_rows: int) -> PartRecord:
    file = FileRecord(name="part-x.parquet", num_rows=num_rows, size_bytes=1, sha256="")
    return PartRecord(name="x", rows=file, dropped=None, dropped_by_reason={}, counters={"num_output_tokens": 50})


def test_one_line_per_stage_from_waiting_to_finished(screen: io.StringIO, tmp_path: Path) -> None:
    with live.live_stages(["load_prompts", "revise", "evaluate"]) as board:
        assert board is not None
        board.add_task("load_prompts", total=None)
        board.ended("load_prompts", "finished", "60 rows out", 0.4)
        board.add_task("revise", total=None)
        with StageProgress(Storage(str(tmp_path)), "revise", 1, 60, 20) as progress:
            assert terminal_bar() is board, "one board, never two bars"
            progress.add(part(30))
            assert [task.fields["state"] for task in board.tasks] == ["finished", "running", "waiting"]
            assert (board.tasks[1].completed, board.tasks[1].total) == (50, 60)
            assert "rows/s" in board.tasks[1].fields["speed"]
        board.ended("revise", "finished", "58 rows out, 2 dropped", 185)
    assert terminal_bar() is not board
    load, revise, evaluate = last_picture(screen, 3)
    assert load.startswith("finished load_prompts")
    assert "3:05" in revise
    assert "58 rows out, 2 dropped" in revise
    assert evaluate.startswith("waiting")


def test_a_stage_that_begins_anew_keeps_its_line(screen: io.StringIO) -> None:
    with live.live_stages(["evaluate"]) as board:
        assert board is not None
        for policy, total in (("policy", 30), ("sl_cai", 40)):
            line = board.add_task("evaluate", total=total, speed=policy)
            board.update(line, completed=total)
        assert len(board.tasks) == 1
        assert (board.tasks[0].total, board.tasks[0].fields["speed"]) == (40, "sl_cai")
        board.ended("evaluate", "failed", "", None)
    assert last_picture(screen, 1)[0].startswith("failed")


def test_a_piece_of_a_stage_has_a_line_while_it_lasts(screen: io.StringIO, tmp_path: Path) -> None:
    with live.live_stages(["evaluate"]) as board:
        assert board is not None
        board.add_task("evaluate", total=None)
        with StageProgress(Storage(str(tmp_path)), "evaluate", 1, 60, 0, name="sl_cai") as progress:
            progress.add(part(30))
            assert [task.description for task in board.tasks if task.visible] == ["evaluate", "evaluate (sl_cai)"]
            assert board.tasks[1].completed == 30
        assert [task.description for task in board.tasks if task.visible] == ["evaluate"]


def test_log_lines_stay_above_the_board(screen: io.StringIO) -> None:
    with live.live_stages(["revise"]):
        live.terminal.print("a line of the log")
    text = screen.getvalue()
    assert text.index("a line of the log") < text.rindex("revise")


def test_without_a_terminal_there_is_no_board(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(live, "terminal", Console(file=io.StringIO(), force_terminal=False))
    with live.live_stages(["revise"]) as board:
        assert board is None
        assert live.open_board() is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert live.duration(seconds) == text
