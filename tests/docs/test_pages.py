"""The papers: every link leads somewhere, every command line is one, the README stays a page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cai_ray.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
# `cai-ray ...` at the start of a code line or of inline code.
COMMAND = re.compile(r"(?:^\$? ?|`)(cai-ray [^`#\n]*)", re.MULTILINE)
WORD = re.compile(r"[a-z][a-z-]*")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target} is not there"


def commands(page: Path) -> Iterator[list[str]]:
    for line in COMMAND.findall(page.read_text()):
        yield shlex.split(line.split(" && ")[0].split(" | ")[0].rstrip(" ;,."))[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_has_flags_that_are_there(page: Path) -> None:
    root = typer.main.get_command(app)
    for words in commands(page):
        command: Any = root
        rest = list(words)
        while hasattr(command, "commands") and rest and WORD.fullmatch(rest[0]):
            name = rest.pop(0)
            assert name in command.commands, f"{page.name}: cai-ray {' '.join(words)}: there is no {name!r}"
            command = command.commands[name]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            for flag in re.split(r"[|/]", word):
                if flag.startswith("-") and flag not in ("-", "--", "--help"):
                    assert flag.partition("=")[0] in known, f"{page.name}: cai-ray {' '.join(words)}: no {flag}"


def test_the_readme_is_a_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    prose = CODE.sub("", text)
    long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long, long
