"""Cells that fail are holes, what is finished is not run again, and no command outlives a study that is stopped."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cai_ray.pipeline.studies import running
from cai_ray.pipeline.studies.running import _Commands, _run_model, reason_in
from cai_ray.pipeline.studies.study import Cell, cells_of
from tests.pipeline.studies.test_study import study


class Scripted(_Commands):
    """Cells whose name holds `failing` fail."""

    def __init__(self, folder: Path, failing: str = "nothing") -> None:
        super().__init__(folder, lambda line: None)
        self.failing, self.ran = failing, list[str]()

    def run(self, cell: Cell) -> str:
        self.ran.append(cell.form)
        return "exit code 2: no" if self.failing in cell.form else ""


@pytest.mark.parametrize(
    ("failing", "holes", "ran"),
    [
        ("nothing", set(), ["as_is", "direction", "ablated", "reverse"]),
        ("direction", {"ablated", "reverse"}, ["as_is", "direction"]),
        ("as_is", {"as_is"}, ["as_is", "direction", "ablated", "reverse"]),
        ("ablated", {"ablated"}, ["as_is", "direction", "ablated", "reverse"]),
    ],
)
def test_a_failed_cell_is_a_hole_and_the_others_go_on(
    tmp_path: Path, failing: str, holes: set[str], ran: list[str]
) -> None:
    found: dict[tuple[str, str], str] = {}
    commands = Scripted(tmp_path, failing)
    _run_model(cells_of(study(tmp_path), "one"), commands, found)
    assert {form for _, form in found} == holes and commands.ran == ran
    assert all("exit code 2" in why for why in found.values())


def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "is_done", lambda cell: cell.form in ("as_is", "direction"))
    commands = Scripted(tmp_path)
    _run_model(cells_of(study(tmp_path), "one"), commands, {})
    assert commands.ran == ["ablated", "reverse"]


def test_the_reason_is_the_last_thing_a_command_said() -> None:
    assert reason_in("a\n\nmodel 'x' cannot be loaded \n", 2) == "exit code 2: model 'x' cannot be loaded"
    assert reason_in("", -9) == "exit code -9: it said nothing"


@pytest.mark.slow
def test_a_real_command_fails_with_its_words_and_is_stopped_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells_of(study(tmp_path, models={"one": {"path": str(tmp_path / "nowhere")}}), "one")[0]
    told: list[str] = []
    commands = _Commands(tmp_path / "s", told.append)
    assert "nowhere" in commands.run(cell)
    monkeypatch.setattr(running.sys, "executable", "/bin/sleep")
    monkeypatch.setattr(running, "dump", lambda recipe: "")
    found: list[Any] = []
    started = psutil.Process().children(recursive=True)
    with commands.ended():
        # `sleep -m ...` ends at once; what counts is that nothing is begun after the stop.
        threading.Thread(target=lambda: found.append(commands.run(cell))).start()
        time.sleep(0.5)
    num_told = len(told)
    assert commands.run(cell) == "stopped" and len(told) == num_told
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= {child.pid for child in started}
