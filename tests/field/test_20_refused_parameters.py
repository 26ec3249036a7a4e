"""Case 20: a server that refuses a parameter, or speaks no JSON, ends the run after its first replies, in its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.exits import EXIT_BAD_INPUT
from tests.field.endpoint_runs import command, committed, endpoint_recipe
from tests.field.server import serving
from tests.runs import merged, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MOST_ASKED = 12  # what is on its way when the refusals are known to be alike, of 40 prompts


def test_a_refused_parameter_is_exit_code_2_with_the_key_to_set(tmp_path: Path) -> None:
    with serving(refuse=("max_tokens",)) as server:
        recipe = endpoint_recipe(tmp_path, server)
        refused = command(recipe, "--until", "revise")
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert "Unsupported parameter: 'max_tokens' is not supported with this model." in refused.stderr
        assert "endpoint.parameters: {max_tokens: null}" in refused.stderr and "Traceback" not in refused.stderr
        assert server.num_asked <= MOST_ASKED
        assert committed(recipe) == (0, 0), "no row is dropped for it"
        set_to = "models.policy.endpoint.parameters={max_tokens: max_completion_tokens}"
        mended = command(recipe, "--until", "revise", "--set", set_to)
        assert mended.returncode == 0, mended.stderr
        assert server.bodies[-1]["max_completion_tokens"] > 0 and "max_tokens" not in server.bodies[-1]
    assert stage(recipe, "revise").manifest.rows_out == 40


@pytest.mark.parametrize("name", ["seed", "temperature", "logprobs"])
def test_any_parameter(name: str, tmp_path: Path) -> None:
    with serving() as policy, serving(refuse=(name,)) as server:
        asked = policy if name == "logprobs" else server
        changes = {"models": {"feedback": {"endpoint": {"base_url": server.url, "model": "m", "max_retries": 0}}}}
        labels = {"pairs": {"model": "policy"}, "labels": {"model": "feedback"}} if name == "logprobs" else {}
        recipe = endpoint_recipe(tmp_path, asked, 24, **merged(changes, labels))
        refused = command(recipe)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert f"'{name}' is not supported" in refused.stderr and "endpoint.parameters" in refused.stderr
        assert server.num_asked <= MOST_ASKED + (64 if name == "logprobs" else 0)
        assert committed(recipe, "label_comparisons" if name == "logprobs" else "revise") == (0, 0)


def test_a_web_page_is_no_server(tmp_path: Path) -> None:
    with serving(page="<html><title>Sign in</title></html>") as server:
        recipe = endpoint_recipe(tmp_path, server)
        refused = command(recipe, "--until", "revise")
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert "endpoint.base_url" in refused.stderr and "Sign in" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert server.num_asked <= MOST_ASKED
        assert committed(recipe) == (0, 0)
