"""A good run says nothing but our own words: log lines on standard error, tables and paths on standard output."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = ("load_prompts", "revise", "sample_pairs", "label_comparisons", "evaluate", "report")
OUR_LINE = re.compile(rf"\d\d:\d\d:\d\d (?:prompts|{'|'.join(STAGES)})(?: \(\w+\))?: .+")
TABLE = re.compile(
    rf"\s+Stages\s*|stage +state .*|(?:{'|'.join(STAGES)}) +finished .*|"
    r"Answers to \d+ prompts .*|\s+(?:\w+ +)+|policy +\d+% .*|(?:Every metric|Report|Output): .+|\s*"
)


def test_in_a_good_run_only_our_words_reach_the_screen(tmp_path: Path) -> None:
    with serving() as server:
        sections = {"pairs": {"model": "policy"}, "labels": {"orders": "stored"}, "report": {}}
        recipe = endpoint_recipe(tmp_path, server, 12, **sections, evaluate={"policies": ["policy"], "split": "all"})
        done = command(recipe)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    log = [line for line in said if line.startswith("Log of the libraries: ")]
    assert [line for line in said if line not in log and not OUR_LINE.fullmatch(line)] == []
    assert log == said[-1:] or not log
    assert all(Path(line.split(": ")[1]).stat().st_size for line in log)
    assert [line for line in done.stdout.splitlines() if not TABLE.fullmatch(line)] == []
