"""The guide's tables of exit codes: each code of cai_ray has a line, each line a code and a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cai_ray import exits

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs/guide.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
MEANINGS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|`]+) \|$", SECTION, re.MULTILINE)
EXAMPLES = re.findall(r"^\| (\d+) \| ([^|]+) \| `([^`]+)::(\w+)` \|$", SECTION, re.MULTILINE)
CODES = {0, 1, *(value for name, value in vars(exits).items() if name.startswith("EXIT_"))}


def test_every_code_has_a_line_and_every_line_a_code() -> None:
    assert [int(code) for code, *_ in MEANINGS] == sorted(CODES)
    assert {int(code) for code, *_ in EXAMPLES} == CODES


@pytest.mark.parametrize(("code", "situation", "file", "name"), EXAMPLES, ids=lambda value: value[:40])
def test_every_line_has_a_test(code: str, situation: str, file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"


def test_no_line_was_overlooked() -> None:
    lines = [line for line in SECTION.splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == len(MEANINGS) + len(EXAMPLES)
