"""Jobs: names by run and attempt, attaching, logs told once over broken lines, exit codes. The server is scripted."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai_ray.errors import ClusterAway, ConfigError
from cai_ray.exits import EXIT_RETRYABLE
from cai_ray.pipeline.recipe import Recipe
from cai_ray.submission import job as jobs
from cai_ray.submission.job import Job, attempts, ending, run_id

RECIPE = Recipe(name="mine", output="s3://bucket/runs")


class Server:
    """A job server: its jobs, and what the log of any says each time that it is read (an error: a broken line)."""

    def __init__(self, told: list[list[str | Exception]] | None = None) -> None:
        self.jobs: dict[str, Any] = {}
        self.told = told or []
        self.is_quicker = False  # another command submits the same at the same time

    def get_address(self) -> str:
        return "http://127.0.0.1:8265"

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def submit_job(self, *, entrypoint: str, submission_id: str, **given: Any) -> str:
        if self.is_quicker and not self.jobs:
            self.add(submission_id, "RUNNING", "exec theirs")
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.add(submission_id, "PENDING", entrypoint, **given)
        return submission_id

    def add(self, name: str, status: str, entrypoint: str = "exec mine", **given: Any) -> None:
        self.jobs[name] = SimpleNamespace(
            submission_id=name, status=status, entrypoint=entrypoint, driver_exit_code=None, message=None, **given
        )

    def get_job_info(self, name: str) -> Any:
        return self.jobs[name]

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for text in self.told.pop(0):
            if isinstance(text, Exception):
                raise text
            yield text
        if not self.told:
            self.jobs[name].status, self.jobs[name].driver_exit_code = "FAILED", 3


def submitted(server: Any, command: str = "run") -> Job:
    return jobs.submit(server, run_id(RECIPE), Path("/nowhere"), [command, "a b"])


def test_a_run_has_one_name_and_its_attempts_are_numbered() -> None:
    run = run_id(RECIPE)
    assert run.startswith("mine-") and run != run_id(RECIPE.model_copy(update={"output": "/srv"}))
    ids = [f"{run}-1", f"{run}-12", f"{run}-x", f"{run}2-3", "raysubmit_1"]
    assert attempts(ids, run) == {1: f"{run}-1", 12: f"{run}-12"}


def test_twice_is_once_and_after_an_end_comes_the_next_attempt() -> None:
    server, run = Server(), run_id(RECIPE)
    first = submitted(server)
    assert (first.id, first.is_new, first.entrypoint) == (f"{run}-1", True, "exec run 'a b'")
    again = submitted(server, "other")
    assert (again.id, again.is_new, again.entrypoint) == (f"{run}-1", False, "exec run 'a b'")
    for status in ("FAILED", "STOPPED", "SUCCEEDED"):
        server.jobs[again.id].status = status
        again = submitted(server)
        assert again.is_new
    assert again.id == f"{run}-4"


def test_two_commands_at_once_are_one_job() -> None:
    server = Server()
    server.is_quicker = True
    job = submitted(server)
    assert not job.is_new and job.entrypoint == "exec theirs"


def test_nothing_of_the_environment_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    server = Server()
    job = server.jobs[submitted(server).id]
    assert set(job.runtime_env) == {"working_dir", "env_vars"} and set(job.runtime_env["env_vars"]) == {
        "RAY_JOB_STOP_WAIT_TIME_S"
    }
    assert "canary" not in str(job)


def test_the_log_is_told_once_over_broken_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    broken = RuntimeError("WebSocket connection closed unexpectedly")
    server = Server([["one\n", broken], [broken], ["one\ntw", "o\n", broken], ["one\n", "two\nthree\n"]])
    said: list[str] = []
    assert jobs.follow(submitted(server), said.append) == 3
    assert "".join(said) == "one\ntwo\nthree\n"


def test_a_server_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setattr(jobs, "AWAY_LIMIT_S", 0.1)
    server = Server([[OSError("connection refused")] for _ in range(1000)])
    with pytest.raises(ClusterAway, match="run the same command again to attach"):
        jobs.follow(submitted(server), print)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        *[("FAILED", code, code) for code in (1, 2, 3, 75)],
        ("FAILED", None, EXIT_RETRYABLE),  # the head, or the runtime environment
        ("FAILED", -9, EXIT_RETRYABLE),
        ("FAILED", 137, EXIT_RETRYABLE),
        ("STOPPED", None, EXIT_RETRYABLE),
    ],
)
def test_it_ends_as_its_driver_did(status: str, code: int | None, expected: int) -> None:
    assert ending(status, code, "Job was stopped\nand more", lambda _: None) == expected


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://head:10001", "head", "http://"])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a cluster's dashboard"):
        jobs.connect(address)


def test_a_dead_cluster_is_told_at_once() -> None:
    with pytest.raises(ClusterAway, match="nothing answers"):
        jobs.connect("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, ConfigError, "set RAY_AUTH_MODE=token"),
        (403, ConfigError, "set RAY_AUTH_MODE=token"),
        (404, ConfigError, "refuses: Version check returned 404"),
        (200, ConfigError, "refuses"),
        (503, ClusterAway, "does not answer"),
    ],
)
def test_what_a_server_answers_is_told_as_one_message(status: int, error: type[Exception], told: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status, "Forbidden: Invalid authentication token")

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(error, match=told):
            jobs.connect(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
