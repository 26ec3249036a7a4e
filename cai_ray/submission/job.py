"""A job on a cluster, through Ray's job server: submitted or attached to, followed, ended with the driver's exit code.

One run has one name there, with a number for each attempt; so submitting twice attaches to the job that runs, and
submitting after any end begins the next attempt, which goes on where the last one stopped. Nothing of this machine's
environment travels: the cluster's own has the keys that a recipe names.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cai_ray.engines.address import CONNECT_LIMIT_S
from cai_ray.errors import ClusterAway, ConfigError
from cai_ray.exits import EXIT_RETRYABLE
from cai_ray.pipeline.recipe import Recipe
from cai_ray.seeding import stable_id
from cai_ray.stopping import DRAIN_LIMIT_S

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 1.0
AWAY_LIMIT_S = 60.0  # the job server may restart meanwhile
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_LIMIT_S = round(2.5 * DRAIN_LIMIT_S)
RUNNING = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Job:
    """One attempt at a run on a cluster."""

    client: JobSubmissionClient
    id: str
    is_new: bool  # else it was running already
    entrypoint: str


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server. Raises ConfigError, ClusterAway."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--address {address!r} is not the address of a cluster's dashboard, e.g. http://10.0.0.1:8265"
        )
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:  # Ray's client has no time limit
        socket.create_connection((parts.hostname, port), timeout=CONNECT_LIMIT_S).close()
    except OSError as error:
        raise ClusterAway(
            f"nothing answers at {address!r} ({error}); is the cluster up, and the tunnel to its dashboard?"
        ) from error
    from ray.job_submission import JobSubmissionClient

    with _told_of(address):
        return JobSubmissionClient(address)


@contextmanager
def _told_of(address: str) -> Iterator[None]:
    """What Ray's client raises, as ConfigError or ClusterAway."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"{address} asks for a token, and for another than this command's if it has one; set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN_PATH (a file) or RAY_AUTH_TOKEN to the cluster's token"
        ) from error
    except (RuntimeError, ValueError) as error:  # of its own; a reply that is not JSON
        raise ConfigError(f"{address} refuses: {str(error).strip().splitlines()[0]}") from error
    except OSError as error:  # all that `requests` raises
        status = getattr(getattr(error, "response", None), "status_code", 500)
        if status < 500:
            raise ConfigError(f"what answers at {address} is not Ray's job server ({status})") from error
        raise ClusterAway(f"the job server at {address} does not answer: {error}") from error


def run_id(recipe: Recipe) -> str:
    """The name of a run among a cluster's jobs."""
    return f"{recipe.name}-{stable_id(recipe.output, recipe.name)[:8]}"


def attempts(ids: Sequence[str], run: str) -> dict[int, str]:
    """Attempt number -> submission id, of a run."""
    numbers = {name: name.removeprefix(f"{run}-") for name in ids if name.startswith(f"{run}-")}
    return {int(number): name for name, number in numbers.items() if number.isdigit()}


def submit(client: JobSubmissionClient, run: str, folder: Path, command: Sequence[str]) -> Job:
    """Submit `command` with the files of `folder`, or find the job that works on `run` (a `run_id`) already."""
    entrypoint = f"exec {shlex.join(command)}"
    address = client.get_address()
    while True:
        with _told_of(address):
            known: dict[str, Any] = {job.submission_id: job for job in client.list_jobs() if job.submission_id}
        numbered = attempts(list(known), run)
        last = known[numbered[max(numbered)]] if numbered else None
        if last is not None and str(last.status) in RUNNING:
            return Job(client, last.submission_id, False, last.entrypoint)
        name = f"{run}-{max(numbered, default=0) + 1}"
        with _told_of(address):
            try:
                client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    # Ray gives a driver three seconds between SIGTERM and SIGKILL, unless told.
                    runtime_env={"working_dir": str(folder), "env_vars": {STOP_WAIT: str(STOP_LIMIT_S)}},
                    metadata={"cai_ray_run": run},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                continue  # another command was quicker
        return Job(client, name, True, entrypoint)


def follow(job: Job, say: Callable[[str], object]) -> int:
    """Tell the job's log until its end; the exit code of its driver. Raises ClusterAway when the server is away."""
    log, away_since = _Log(say), None
    while True:
        try:
            asyncio.run(log.read(job))
            info = job.client.get_job_info(job.id)
            away_since = None
            if str(info.status) not in RUNNING:
                return ending(str(info.status), info.driver_exit_code, info.message or "", say)
        except (OSError, RuntimeError) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_LIMIT_S:
                raise ClusterAway(
                    f"the job server has been away for {AWAY_LIMIT_S:.0f} s ({error}); job {job.id} may go on without "
                    "it: run the same command again to attach to it"
                ) from error
        time.sleep(POLL_S)


@dataclass
class _Log:
    """A job's log, told once, however often the line to the server breaks: it begins with the first word every time."""

    say: Callable[[str], object]
    num_told: int = 0  # characters

    async def read(self, job: Job) -> None:
        """Tell what is new, until the log's end. Raises OSError or RuntimeError for a broken line."""
        import aiohttp

        num_seen = 0
        try:
            async for text in job.client.tail_job_logs(job.id):
                num_seen += len(text)
                if num_seen > self.num_told:
                    self.say(text[-(num_seen - self.num_told) :])
                    self.num_told = num_seen
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error


def ending(status: str, code: int | None, message: str, say: Callable[[str], object]) -> int:
    """The exit code of a job that has ended. One that has none of its own can be repeated."""
    if status == "SUCCEEDED":
        return 0
    if status == "FAILED" and code is not None and 0 < code < 128:
        return code
    told = message.strip().splitlines()[0] if message.strip() else f"the driver ended with {code}"
    say(f"job {status.lower()}: {told}\n")
    return EXIT_RETRYABLE


def stop(job: Job) -> None:
    """Stop the job and wait until its driver has committed what is done."""
    job.client.stop_job(job.id)
    deadline = time.monotonic() + STOP_LIMIT_S + 10
    while str(job.client.get_job_status(job.id)) in RUNNING and time.monotonic() < deadline:
        time.sleep(POLL_S)
