"""Chat through a pipe, first with models that need no engine, then as a person would start it."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai_ray.chat import Message
from cai_ray.serving.refusals import ApiError
from cai_ray.serving.terminal_chat import Side, _turns, printable

QUESTION = "How do I paint my garden chair?"


async def echo(messages: Sequence[Message]) -> AsyncGenerator[str, None]:
    """Tells how many turns it has seen and what the last one said; stands in for a model."""
    said = messages[-1]["content"]
    if said == "break":
        raise ApiError(400, "the messages have 600 tokens")
    for word in (f"{len(messages)}", ": ", said):
        yield word


def talk(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str], num_sides: int = 1, system: str | None = None) -> Any:
    """(what stands on the screen, the sides)."""
    sides = [Side(f"model {k}", echo) for k in range(num_sides)]
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    with asyncio.Runner() as runner:
        _turns(sides, system, Console(file=screen, width=100), runner)
    return screen.getvalue(), sides


def test_turns_add_up_until_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, _ = talk(monkeypatch, ["a", "", "b", "/reset", "c", "/quit", "d"], system="Be brief.")
    assert shown.splitlines() == ["2: a", "4: b", "forgotten", "2: c"]


def test_the_end_of_input_ends_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, (side,) = talk(monkeypatch, ["a"])
    assert shown == "1: a\n"
    assert side.messages == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "1: a"}]


def test_a_question_without_an_answer_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, sides = talk(monkeypatch, ["a", "break", "b"], num_sides=2)
    assert "the messages have 600 tokens" in shown
    assert [len(side.messages) for side in sides] == [4, 4]


def test_unknown_commands_are_not_sent_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, (side,) = talk(monkeypatch, ["/help me"])
    assert "no command /help" in shown and side.messages == []


def test_two_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, _ = talk(monkeypatch, [QUESTION], num_sides=2)
    lines = shown.splitlines()
    assert any("model 0" in line and "model 1" in line for line in lines)
    assert any(line.count(f"1: {QUESTION}") == 2 for line in lines)


def test_model_text_neither_steers_the_terminal_nor_styles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, _ = talk(monkeypatch, ["\x1b[2J\x07[bold]x[/bold]"], num_sides=1)
    assert "\x1b" not in shown and "\x07" not in shown and "[bold]x[/bold]" in shown
    shown, _ = talk(monkeypatch, ["\x9b31m[bold]x[/bold]"], num_sides=2)
    assert "\x9b" not in shown and "[bold]x[/bold]" in shown
    assert printable("a\u202eb\tc\nd") == "a\N{REPLACEMENT CHARACTER}b\tc\nd"


def run_chat(arguments: Sequence[str], lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cai_ray.cli", "chat", *arguments, "--temperature", "0", "--max-tokens", "32"]
    text = "".join(f"{line}\n" for line in lines)
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
@pytest.mark.long
def test_the_micro_model_through_a_pipe(micro_model: Path) -> None:
    ended = run_chat([str(micro_model)], [QUESTION, "/reset", QUESTION, "x " * 5000, "/quit"])
    assert ended.returncode == 0, ended.stderr[-3000:]
    _, first, forgotten, second, *rest = (line for line in ended.stdout.splitlines() if line)
    assert first == second and "garden" in first and forgotten == "forgotten"
    assert "context length" in " ".join(rest)


@pytest.mark.slow
@pytest.mark.long
def test_two_micro_models_side_by_side(micro_model: Path) -> None:
    ended = run_chat([str(micro_model), str(micro_model), "--compare"], [QUESTION])
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count(micro_model.name) >= 2


@pytest.mark.slow
@pytest.mark.long
def test_one_model_is_no_comparison(micro_model: Path) -> None:
    ended = run_chat([str(micro_model), "--compare"], [])
    assert ended.returncode == 2 and "name one, or two with --compare" in ended.stderr
