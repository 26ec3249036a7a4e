"""The table of cases from the field: every row has tests that are there, every test of tests/field has a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = yaml.safe_load((ROOT / "docs/field_cases.yaml").read_text())
SHARED = ROOT.parent / "shared/field/CASES.md"


@pytest.mark.parametrize("row", CASES, ids=lambda row: row["case"])
def test_a_row_names_tests_that_are_there(row: dict[str, Any]) -> None:
    assert row["tests"] and all((ROOT / test).is_file() for test in row["tests"])
    assert len(row["since"]) == 7 and row["did"] and row["right"]


def test_every_file_of_the_field_has_a_row() -> None:
    named = {test for row in CASES for test in row["tests"]}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/field").glob("test_*.py")}
    assert not there - named, "add a row to docs/field_cases.yaml"


def test_no_case_stands_twice() -> None:
    assert len({row["case"] for row in CASES}) == len(CASES)
