"""`cai-ray submit` over a head and two workers with token authentication, each a host of its own.

Ids, draws and prompts are those of the run on one machine; the exit code is the driver's; a stopped job has committed
what was done; and no secret is anywhere it should not be.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.storage import Storage
from cai_ray.exits import EXIT_BAD_INPUT, EXIT_RETRYABLE
from cai_ray.pipeline.recipe import load
from cai_ray.submission.job import attempts, run_id
from tests.field.endpoint_runs import command, committed, endpoint_recipe
from tests.field.server import FakeServer, serving
from tests.hosts import Hosts, hosts
from tests.runs import draws, stage, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(900)]
NUM_PROMPTS, MANY_PROMPTS = 40, 160
STAGES = ("load_prompts", "revise")
REVISED: dict[str, Any] = {"num_revisions": 2, "scaling": {"rows_per_task": 2, "rows_per_part": 2, "max_engines": 2}}
CANARY, CANARY_HEADER, CANARY_QUERY = "canary-7c1e", "canary-b20d", "canary-91fa"
SUBMIT = ("python", "-m", "cai_ray.cli", "submit")
LIST = """
import sys
from ray.job_submission import JobSubmissionClient
print(JobSubmissionClient(sys.argv[1]).list_jobs())
"""
CODE = """
import sys
from ray.job_submission import JobSubmissionClient
print(JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2]).driver_exit_code)
"""
SCRAPE = """
import json, urllib.request
found = json.load(open("/tmp/ray/prom_metrics_service_discovery.json"))
for address in [target for group in found for target in group["targets"]]:
    print(urllib.request.urlopen(f"http://{address}/metrics").read().decode())
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts"), "head", "one", "two") as up:
        up.keys |= {"MY_ENDPOINT_KEY": CANARY, "MY_TEAM": CANARY_HEADER, "RAY_AUTH_TOKEN": up.token}
        up.start_head()
        up.join("one")
        up.join("two")
        yield up


def answers(up: Hosts, folder: Path, delay_s: float = 0.0) -> Path:
    """A server on the head, at a port of its own; what it was asked, a line each."""
    log = folder / "asked.jsonl"
    up.port += 1
    folder.mkdir(parents=True, exist_ok=True)
    up.start("head", "python", "-m", "tests.field.server", up.address("head"), str(up.port), str(delay_s), log=log)
    return log


def asked(bodies: list[dict[str, Any]]) -> list[str]:
    """Prompts and seeds of requests, whatever order they came in."""
    return sorted(json.dumps([body["messages"], body.get("seed")]) for body in bodies)


def jobs(up: Hosts) -> str:
    listed = up.run("head", "ray", "job", "list", "--address", up.dashboard)
    return listed.stdout + listed.stderr


def test_a_submitted_run_is_the_run_at_home(up: Hosts, tmp_path: Path) -> None:
    with serving() as server:
        home = endpoint_recipe(tmp_path / "home", server, NUM_PROMPTS, revise=REVISED)
        assert command(home, "--until", "revise").returncode == 0
    log = answers(up, tmp_path / "there")
    there_server = FakeServer(url=f"http://{up.address('head')}:{up.port}/v1")
    recipe = endpoint_recipe(tmp_path / "there", there_server, NUM_PROMPTS, revise=REVISED)
    ended = up.run("one", *SUBMIT, str(recipe), "--address", up.dashboard, "--until", "revise", timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "40 rows out" in ended.stdout and "Output: " in ended.stdout
    bodies = [json.loads(line) for line in log.read_text().splitlines()]
    assert asked(bodies) == asked(server.bodies)
    assert draws(stage(recipe, "revise")) == draws(stage(home, "revise"))
    again = up.run("two", *SUBMIT, str(recipe), "--address", up.dashboard, "--until", "revise", timeout=300)
    assert again.returncode == 0 and "Nothing to do" in again.stdout
    wrong = up.run("one", *SUBMIT, str(recipe), "--address", up.dashboard, "--set", "seed=6", timeout=300)
    assert wrong.returncode == EXIT_BAD_INPUT, wrong.stdout + wrong.stderr
    assert "was made with other settings" in wrong.stdout


@pytest.mark.long
def test_the_quickstart_is_the_same_over_hosts(up: Hosts, tmp_path: Path) -> None:
    few = ("--until", "revise", "--limit", "6", "--set", "revise.num_revisions=1")
    here = subprocess.run(
        [sys.executable, "-m", "cai_ray.cli", "run", "quickstart", *few, "--set", f"output={tmp_path / 'home'}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert here.returncode == 0, here.stderr
    there = ("quickstart", *few, "--set", f"output={tmp_path / 'there'}", "--address", up.dashboard)
    ended = up.run("two", *SUBMIT, *there, timeout=400)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    artifacts = [{name: found(tmp_path / run / "quickstart" / name) for name in STAGES} for run in ("home", "there")]
    home, over_hosts = artifacts
    assert sorted_rows(over_hosts["load_prompts"]) == sorted_rows(home["load_prompts"])
    assert draws(over_hosts["revise"]) == draws(home["revise"]) and len(draws(home["revise"])) > 3
    assert over_hosts["revise"].manifest.fingerprint == home["revise"].manifest.fingerprint


def found(folder: Path) -> Artifact:
    artifact = find(Storage(str(folder)))
    assert artifact is not None
    return artifact


def sorted_rows(artifact: Artifact) -> list[dict[str, Any]]:
    return sorted(artifact.rows(), key=lambda row: row["prompt_id"])


def num_answered(log: Path) -> int:
    return log.read_bytes().count(b"\n")


@pytest.mark.long
def test_a_job_goes_on_without_its_command_and_is_stopped_and_resumed(up: Hosts, tmp_path: Path) -> None:
    log = answers(up, tmp_path, delay_s=2.0)
    server = FakeServer(url=f"http://{up.address('head')}:{up.port}/v1")
    recipe = endpoint_recipe(tmp_path, server, MANY_PROMPTS, revise={"scaling": {"max_engines": 2}})
    submit = (*SUBMIT, str(recipe), "--address", up.dashboard, "--until", "revise")
    first = up.start("one", *submit, log=tmp_path / "first")
    wait_for(lambda: num_answered(log) >= 9 or first.poll() is not None, 120, "nine answers")
    up.send(signal.SIGINT, first)
    assert first.wait(30) == EXIT_RETRYABLE
    assert "goes on. The same command attaches to it" in (tmp_path / "first").read_text()
    beside = up.run("two", "python", "-m", "cai_ray.cli", "run", str(recipe), "--until", "revise")
    assert beside.returncode == EXIT_RETRYABLE and "somebody works there already: root on head" in beside.stderr
    second = up.start("two", *submit, "--stop-on-interrupt", log=tmp_path / "second")
    wait_for(lambda: "attached to it" in (tmp_path / "second").read_text(), 60, "attached")
    time.sleep(3)
    at = time.monotonic()
    up.send(signal.SIGINT, second)
    assert second.wait(60) == EXIT_RETRYABLE, (tmp_path / "second").read_text()
    assert time.monotonic() - at < 25
    said = (tmp_path / "second").read_text()
    assert "stopped by SIGINT" in said and "Traceback" not in said, said
    num_rows, num_dropped = committed(recipe)
    assert num_dropped == 0 and 8 <= num_rows < MANY_PROMPTS
    assert not list(recipe.parent.glob("run/lease-*.json"))
    asked_before = num_answered(log)
    assert up.run("one", *submit, timeout=300).returncode == 0
    assert num_answered(log) - asked_before == MANY_PROMPTS - num_rows
    assert stage(recipe, "revise").manifest.rows_out == MANY_PROMPTS
    run = run_id(load(recipe))
    assert set(attempts(re.findall(r"[\w.-]+", jobs(up)), run)) == {1, 2}


def test_another_token_is_refused(up: Hosts, tmp_path: Path) -> None:
    recipe = endpoint_recipe(tmp_path, FakeServer(url="http://127.0.0.1:9/v1"), 4)
    for environment in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = up.run("one", *SUBMIT, str(recipe), "--address", up.dashboard, environment=environment)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stdout + refused.stderr
        assert "RAY_AUTH_TOKEN_PATH" in refused.stderr and "Traceback" not in refused.stderr


def test_rays_own_command_ends_with_1_and_the_job_has_the_code(up: Hosts, tmp_path: Path) -> None:
    none = ("python", "-m", "cai_ray.cli", "run", str(tmp_path / "none.yaml"))
    ended = up.run("one", "ray", "job", "submit", "--address", up.dashboard, "--submission-id", "own", "--", *none)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    code = up.run("head", "python", "-c", CODE, up.dashboard, "own")
    assert code.stdout.split() == [str(EXIT_BAD_INPUT)], code.stderr


def test_no_secret_is_anywhere_it_should_not_be(up: Hosts, tmp_path: Path) -> None:
    """Keys of an endpoint, by name and in a header, one in the URI of `output`, and the cluster's token."""
    log = answers(up, tmp_path / "server")
    server = FakeServer(url=f"http://{up.address('head')}:{up.port}/v1")
    keys = {"api_key_env": "MY_ENDPOINT_KEY", "headers_env": {"X-Team": "MY_TEAM"}}
    keyed = {"models": {"policy": {"endpoint": keys}}, "report": {}}
    output = f"file://{tmp_path / 'run'}?secret_key={CANARY_QUERY}"
    recipe = endpoint_recipe(tmp_path / "run", server, 8, name="secret", output=output, **keyed)
    ended = up.run("one", *SUBMIT, str(recipe), "--address", up.dashboard, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sent = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(one["authorization"], one["x-team"]) for one in sent} == {(f"Bearer {CANARY}", CANARY_HEADER)}
    assert num_answered(log) == 8
    info = up.run("head", "python", "-c", LIST, up.dashboard)
    assert "secret-" in info.stdout, info.stderr
    metrics = up.run("head", "python", "-c", SCRAPE)
    assert "ray_" in metrics.stdout, metrics.stderr
    told = ended.stdout + ended.stderr + info.stdout + jobs(up) + metrics.stdout
    where = [tmp_path / "run", *(up.folder / name for name in up.names)]
    texts = {str(file): file.read_bytes() for folder in where for file in folder.rglob("*") if file.is_file()}
    # The recipe itself has the key that was written into it, here and where it travelled to.
    recipes = [name for name in texts if name.endswith("/recipe.yaml")]
    assert len(texts) > 50 and str(recipe) in recipes
    for name in recipes:
        texts[name] = texts[name].replace(CANARY_QUERY.encode(), b"")
    for secret in (CANARY, CANARY_HEADER, CANARY_QUERY, up.token):
        assert secret not in told
        assert not [name for name, content in texts.items() if secret.encode() in content]
