"""The command `run` to its end: bad input is exit code 2 before any engine starts, 3, 4 and 75 where it got further."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.cli import app
from cai_ray.constitution.principles import ConstitutionError
from cai_ray.errors import (
    ClusterAway,
    ConfigError,
    ConservationError,
    EngineGaveUp,
    RunIsTaken,
    Stopped,
    TooManyDropped,
)
from cai_ray.exits import EXIT_BAD_INPUT, EXIT_LIMIT_REACHED, EXIT_RETRYABLE, EXIT_TOO_MANY_DROPPED, edge, exit_code
from tests import faults
from tests.field.endpoint_runs import command as endpoint_command
from tests.field.endpoint_runs import committed, endpoint_recipe
from tests.field.server import serving
from tests.runs import check_adds_up, engine, records, records_folder, requests, saying, write_jsonl, write_recipe


class RayTaskError(Exception):
    """As Ray wraps what a worker raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


class ActorDiedError(Exception):
    """Ray's, known by its name."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (ConstitutionError("x", ()), 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), 2),
        (TooManyDropped("x"), 3),
        (EngineGaveUp("x"), 75),
        (ClusterAway("x"), 75),
        (ActorDiedError("x"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (ConservationError("x"), None),
        (ValueError("a bug"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "part.parquet"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_its_code_however_it_is_wrapped(error: Exception, code: int | None) -> None:
    assert exit_code(error) == exit_code(RayTaskError(RayTaskError(error))) == code
    later = RuntimeError("later")
    later.__cause__ = error
    assert exit_code(later) == code


def test_an_unexpected_error_is_exit_code_1_with_its_trace() -> None:
    code = (
        "import sys; from cai_ray.commands import terminal; from cai_ray.pipeline import status\n"
        "def bug(*args): raise KeyError('of ours')\n"
        "status.status = bug\n"
        "from cai_ray.cli import app; app(['status', 'quickstart'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "KeyError: 'of ours'" in done.stderr


@pytest.mark.parametrize("stop", [Stopped("SIGTERM"), RunIsTaken("somebody works there"), KeyboardInterrupt()])
def test_whoever_stops_a_command_it_is_one_line_and_exit_code_75(
    stop: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    @edge
    def command() -> None:
        raise stop

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == EXIT_RETRYABLE
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def command(recipe: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["run", str(recipe), *arguments])


def one_line(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", requests(24))


def without_chat_template(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    (target / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((target / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"revise": {"num_revisons": 2}}, "did you mean 'num_revisions'?"),
        ({"revise": {"principle_ids": ["no-such-principle"]}}, "no-such-principle"),
        ({"revise": {"model": "judge"}}, "models has policy"),
        ({"constitution": "no-such-constitution"}, "no-such-constitution"),
        ({"prompts": {"path": "no/such/prompts.jsonl"}}, "no/such/prompts.jsonl"),
        ({"models": {"policy": {"path": "no/such/model"}}}, "no/such/model"),
        ({"models": {"policy": {"chat_template": "no/such/template.jinja"}}}, "no/such/template.jinja"),
        ({"output": "/proc/nowhere"}, "cannot be written"),
        ({"output": "nowhere://bucket/run"}, "nowhere://"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_message_and_exit_code_2(
    changes: dict[str, Any],
    told: str,
    micro_model: Path,
    tmp_path: Path,
    prompts: Path,
) -> None:
    result = command(write_recipe(tmp_path, micro_model, prompts, **changes))
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert told in one_line(result)
    assert "Traceback" not in result.output
    assert not (tmp_path / "run" / "revise").exists()


@pytest.mark.slow
def test_a_model_without_chat_template_is_exit_code_2(micro_model: Path, tmp_path: Path, prompts: Path) -> None:
    bare = without_chat_template(micro_model, tmp_path / "bare")
    result = command(write_recipe(tmp_path, bare, prompts))
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert "chat template" in one_line(result) and "transcript" in one_line(result)
    assert not (tmp_path / "run" / "revise").exists()


@pytest.mark.slow
def test_a_changed_recipe_is_refused(
    ray_session: None, micro_model: Path, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.use_script(monkeypatch, faults.echo)
    recipe = write_recipe(tmp_path, micro_model, prompts)
    assert command(recipe).exit_code == 0
    result = command(recipe, "--set", "revise.num_revisions=3")
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert "num_revisions: 2 -> 3" in one_line(result) and "--fresh" in one_line(result)
    assert check_adds_up(recipe).manifest.rows_out == 24
    again = command(recipe)
    assert again.exit_code == 0 and "Nothing to do" in again.output


@pytest.mark.slow
def test_too_many_dropped_rows_is_exit_code_3_with_the_stage_committed(
    ray_session: None, micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.use_script(monkeypatch, faults.asleep_when_told)
    late = [saying(f"Show me {faults.HANGS} {number} times.") for number in range(8)]
    path = write_jsonl(tmp_path / "prompts.jsonl", [*requests(16), *late])
    recipe = write_recipe(tmp_path, micro_model, path, models=engine(row_time_limit_s=4.0))
    result = command(recipe)
    assert result.exit_code == EXIT_TOO_MANY_DROPPED, result.output
    assert "8 of 24 rows (33.3%: timeout 8)" in one_line(result)
    assert check_adds_up(recipe).manifest.rows_dropped == {"timeout": 8}


@pytest.mark.slow
def test_a_used_up_restart_budget_is_exit_code_75_and_committed_parts_stay(
    ray_session: None, micro_model: Path, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, micro_model, prompts, models=engine(max_restarts=2, rows_in_flight=3))
    faults.use_script(monkeypatch, faults.DiesAfter(5 * 14, str(records_folder(recipe))))
    result = command(recipe)
    assert result.exit_code == EXIT_RETRYABLE, result.output
    assert "max_restarts=2" in one_line(result) and "run the same command again" in one_line(result)
    committed = records(recipe)
    assert committed

    faults.use_script(monkeypatch, faults.echo)
    assert command(recipe).exit_code == 0
    hashes = {file.name: file.sha256 for file in check_adds_up(recipe).manifest.files}
    assert all(hashes[record["rows"]["name"]] == record["rows"]["sha256"] for record in committed.values())


@pytest.mark.slow
def test_a_real_engine_that_can_never_start_is_exit_code_2_with_its_own_words(
    ray_session: None, micro_model: Path, tmp_path: Path, prompts: Path
) -> None:
    result = command(write_recipe(tmp_path, micro_model, prompts, models=engine(num_kv_blocks=2)))
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert "the engine does not start" in one_line(result) and "KV cache" in one_line(result)
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_a_limit_is_exit_code_4_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    """Each of the server's answers is 13 tokens; four requests are under way at a time."""
    with serving(delay_s=0.05) as server:
        recipe = endpoint_recipe(tmp_path, server, 40)
        first = endpoint_command(recipe, "--set", "limits.tokens=130")
        assert first.returncode == EXIT_LIMIT_REACHED, first.stderr
        assert "limits.tokens=130 is reached" in first.stderr and "Traceback" not in first.stderr
        assert 10 <= server.num_answered <= 10 + 4
        rows, dropped = committed(recipe)
        assert (rows, dropped) == (server.num_answered, 0)
        again = endpoint_command(recipe, "--set", "limits.tokens=130")
        assert again.returncode == EXIT_LIMIT_REACHED and server.num_answered == rows, "nothing was begun"
        last = endpoint_command(recipe, "--set", "limits.tokens=100000")
        assert last.returncode == 0, last.stderr
        assert server.num_answered == 40
    made = Artifact(Storage(str(tmp_path)) / "run" / "revise")
    ids = [row["prompt_id"] for row in made.rows(["prompt_id"])]
    assert len(set(ids)) == len(ids) == 40
    assert made.manifest.counters["num_prompt_tokens"] == 400
