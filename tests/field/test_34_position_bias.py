"""Case 34: a labeller that always favours the first answer: exit code 3 that names the bias; a summary is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import SUMMARY
from cai_ray.exits import EXIT_TOO_MANY_DROPPED
from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_labeller_that_favours_the_first_answer_is_told_so(tmp_path: Path) -> None:
    with serving(favours="A") as server:
        recipe = endpoint_recipe(tmp_path, server, 6, pairs={"model": "policy"}, labels={})
        ended = command(recipe, "--until", "label_comparisons")
    said = " ".join(ended.stderr.split())
    assert ended.returncode == EXIT_TOO_MANY_DROPPED, said
    assert "position bias" in said and "shown first" in said and "+0.4" in said
    assert (tmp_path / "run" / "label_comparisons" / SUMMARY).is_file()
