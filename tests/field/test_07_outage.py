"""Case 07: an outage costs no row and ends with exit code 75; a row that is lost alone is asked again on demand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.exits import EXIT_RETRYABLE
from tests.field.endpoint_runs import command, committed, endpoint_recipe
from tests.field.server import serving
from tests.runs import stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_server_that_fails_after_30_of_100_requests_costs_no_row(tmp_path: Path) -> None:
    with serving(fail_after=30) as server:
        recipe = endpoint_recipe(tmp_path, server, 100)
        first = command(recipe, "--until", "revise")
        assert first.returncode == EXIT_RETRYABLE, first.stderr
        assert "down for repairs" in first.stderr and "Traceback" not in first.stderr
        assert committed(recipe) == (30, 0)
        server.fail_after, server.num_asked = None, 0
        second = command(recipe, "--until", "revise")
        assert second.returncode == 0, second.stderr
        assert server.num_asked == 70
    assert stage(recipe, "revise").manifest.rows_out == 100


def test_a_row_that_is_lost_alone_is_dropped_and_asked_again_on_demand(tmp_path: Path) -> None:
    with serving(fail_on="fold 7 napkins") as server:
        recipe = endpoint_recipe(tmp_path, server, 12)
        assert command(recipe, "--until", "revise").returncode == 0
        before = stage(recipe, "revise").manifest
        assert (before.rows_out, before.rows_dropped) == (11, {"endpoint_error": 1})
        server.fail_on, server.num_asked = None, 0
        again = command(recipe, "--until", "revise", "--retry-dropped", "endpoint_error")
        assert again.returncode == 0, again.stderr
        assert server.num_asked == 1
    after = stage(recipe, "revise").manifest
    assert (after.rows_out, after.rows_dropped, after.attempts) == (12, {}, before.attempts + 1)
