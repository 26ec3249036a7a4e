"""The order of steps, what is found before any engine starts, and fingerprints. No Ray, no vLLM."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.errors import ConfigError, EngineGaveUp, TooManyDropped
from cai_ray.exits import EXIT_RETRYABLE, exit_code
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import Recipe, build
from cai_ray.pipeline.steps import select, steps

PROMPTS = [{"messages": [{"role": "user", "content": f"How do I paint chair number {k}?"}]} for k in range(4)]


@pytest.fixture
def recipe_data(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    server = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    return {
        "name": "test",
        "output": str(tmp_path / "runs"),
        "models": {"policy": {"endpoint": server}},
        "prompts": {"path": str(path)},
    }


def recipe(data: dict[str, Any], **changes: Any) -> Recipe:
    return build({**data, **changes}, "test")


def fingerprints(made: Recipe) -> dict[str, str]:
    return dict(pipeline.prepare(made, steps(made)).fingerprints)


def test_steps_and_their_selection(recipe_data: dict[str, Any]) -> None:
    assert [step.stage for step in steps(recipe(recipe_data))] == ["load_prompts", "revise"]
    found = steps(recipe(recipe_data, expand={}))
    assert [step.stage for step in found] == ["load_prompts", "expand_prompts", "revise"]
    assert [step.stage for step in select(found, first="expand_prompts")] == ["expand_prompts", "revise"]
    assert [step.stage for step in select(found, last="load_prompts")] == ["load_prompts"]
    assert [step.stage for step in select(found, only="revise")] == ["revise"]
    with pytest.raises(ConfigError, match="its stages: load_prompts, expand_prompts, revise"):
        select(found, only="train")


def test_fingerprints_follow_what_decides_results_and_nothing_else(recipe_data: dict[str, Any], tmp_path: Path) -> None:
    base = fingerprints(recipe(recipe_data))
    assert fingerprints(recipe(recipe_data, revise={"scaling": {"max_engines": 4}})) == base
    rounds = fingerprints(recipe(recipe_data, revise={"num_revisions": 1}))
    assert rounds["load_prompts"] == base["load_prompts"]
    assert rounds["revise"] != base["revise"]
    assert fingerprints(recipe(recipe_data, constitution="harmlessness"))["revise"] != base["revise"]
    assert fingerprints(recipe(recipe_data, seed=1))["revise"] != base["revise"]
    Path(recipe_data["prompts"]["path"]).write_text(json.dumps(PROMPTS[0]) + "\n")
    changed = fingerprints(recipe(recipe_data))
    assert changed["load_prompts"] != base["load_prompts"], "another file under the same name"
    assert changed["revise"] != base["revise"], "another input, another output"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constitution": "harmlesness"}, "harmlessness"),
        ({"constitution": None}, "names no constitution"),
        ({"revise": {"principle_ids": ["no-such"]}}, "no such principle"),
        ({"revise": {"num_revisions": 30, "principles": {"replacement": False}}}, "without replacement"),
        ({"revise": {"model": "labeller"}}, "labeller"),
        ({"models": {"policy": {"path": "/nonexistent/model"}}}, "no tokenizer"),
        (
            {"models": {"policy": {"endpoint": {"base_url": "http://x", "model": "m", "api_key_env": "NO_SUCH_KEY"}}}},
            "KEY",
        ),
        ({"output": "/dev/null/runs"}, "cannot be written"),
        ({"prompts": {"path": "/nonexistent/prompts.jsonl"}}, "/nonexistent/prompts.jsonl"),
    ],
)
def test_what_is_wrong_is_one_message_and_exit_code_2(
    recipe_data: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe_data, **changes}))  # JSON is YAML
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_loading_prompts_alone_needs_no_engine_and_status_tells(recipe_data: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_data))
    runner = CliRunner()
    assert runner.invoke(app, ["run", str(path), "--until", "load_prompts"]).exit_code == 0
    again = runner.invoke(app, ["run", str(path), "--until", "load_prompts"])
    assert "Nothing to do" in again.output
    told = json.loads(runner.invoke(app, ["status", str(path), "--json"]).output)
    assert told["stages"][0] | {"duration_s": 0} == {
        "stage": "load_prompts",
        "state": "finished",
        "rows_in": 4,
        "rows_out": 4,
        "rows_dropped": {},
        "rows_left_out": {},
        "duration_s": 0,
        "tokens": 0,
        "dollars": 0.0,
    }
    assert told["stages"][1]["state"] == "not started"
    other = runner.invoke(app, ["run", str(path), "--until", "load_prompts", "--limit", "2"])
    assert other.exit_code == 2
    assert "--fresh" in other.output
    fresh = runner.invoke(app, ["run", str(path), "--until", "load_prompts", "--limit", "2", "--fresh"])
    assert fresh.exit_code == 0
    preview = runner.invoke(app, ["preview", str(path)])
    assert preview.exit_code == 2
    assert "no revisions yet" in preview.output


def test_too_many_dropped_rows_is_exit_code_3(recipe_data: dict[str, Any], tmp_path: Path) -> None:
    Path(recipe_data["prompts"]["path"]).write_text('{"messages": []}\n' * 9 + json.dumps(PROMPTS[0]) + "\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_data))
    for _ in range(2):  # the second time the stage is finished, and still too many are gone
        result = CliRunner().invoke(app, ["run", str(path), "--until", "load_prompts"])
        assert result.exit_code == 3
        assert "empty 9" in result.output


def test_exit_codes_see_through_wrapping() -> None:
    class RayTaskError(Exception):
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    assert exit_code(RayTaskError(EngineGaveUp("x"))) == EXIT_RETRYABLE
    assert exit_code(RayTaskError(ConfigError("x"))) == 2
    assert exit_code(TooManyDropped("x")) == 3
    assert exit_code(ValueError("a bug")) is None
    assert exit_code(OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300)) == 2
    assert exit_code(OSError(errno.ENOSPC, "No space left on device")) == EXIT_RETRYABLE
    assert exit_code(FileNotFoundError(errno.ENOENT, "No such file", "part.parquet")) is None, "a bug of ours"
