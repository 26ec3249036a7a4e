"""A run on a cluster says on the nodes' metrics ports how far it is, and says no secret there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cai_ray.progress import exported
from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import serving
from tests.runs import cli, free_port, requests, wait_for, write_jsonl, write_recipe

CANARY = "canary-3f1c-in-an-environment-variable"
SAMPLE = re.compile(r"^ray_(\w+?)(?:_total)?\{(.*)\} (\S+)$", re.MULTILINE)
NUM_PROMPTS = 24
WHERE = 'run="run",stage="revise"'


@contextmanager
def head(folder: Path) -> Iterator[tuple[dict[str, str], int]]:
    """A Ray with token authentication; the environment of its clients, and its metrics port."""
    token = folder / "auth_token"
    token.write_text("0" * 63 + "7")
    port, metrics = free_port(), free_port()
    # A short path: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": temporary,
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_metrics_report_interval_ms": "500", "CANARY": CANARY,
        }  # fmt: skip
        command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--port={port}", f"--metrics-export-port={metrics}", "--num-cpus=8", "--include-dashboard=false"]
        command += ["--object-store-memory=200000000"]
        ray = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert ray.stdout is not None
            wait_for(lambda: "Ray runtime started" in ray.stdout.readline(), 60, "a head")
            yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, metrics
        finally:
            for process in [*psutil.Process(ray.pid).children(recursive=True), ray]:
                process.kill()
            ray.wait()


def samples(port: int) -> tuple[str, dict[str, dict[str, float]]]:
    """What the port says: all of it, and of our metrics the values by their tags (those of Ray's own left out)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, tags, value in SAMPLE.findall(text):
        ours = sorted(tag for tag in tags.split(",") if tag.partition("=")[0] in ("run", "stage", "reason", "kind"))
        if name.startswith("cai_ray_"):
            found.setdefault(name, {})[",".join(ours)] = float(value)
    return text, found


def value(port: int, name: str) -> float:
    return samples(port)[1].get(name, {}).get(WHERE, 0.0)


@pytest.mark.slow
def test_a_run_tells_its_rows_drops_tokens_and_open_conversations(tmp_path: Path) -> None:
    with serving(delay_s=0.5, fail_on="fold 7 napkins") as server, head(tmp_path) as (environment, port):
        recipe = endpoint_recipe(
            tmp_path, server, NUM_PROMPTS, models={"policy": {"endpoint": {"api_key_env": "CANARY"}}}
        )
        log = (tmp_path / "log").open("w")
        run = subprocess.Popen(cli(recipe), env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: 0 < value(port, exported.ROWS_IN_FLIGHT) <= 4, 90, "open conversations", 0.5)
        finally:
            code = run.wait(150)
        assert code == 0, (tmp_path / "log").read_text()
        wait_for(lambda: value(port, exported.ROWS) == NUM_PROMPTS - 1, 40, "the last counts", 1)
        text, found = samples(port)
    assert found[exported.ROWS_DROPPED] == {f'reason="endpoint_error",{WHERE}': 1}
    written = found[exported.TOKENS][f'kind="output",{WHERE}']
    assert written > 0
    assert CANARY not in text and (tmp_path / "auth_token").read_text() not in text


@pytest.mark.slow
@pytest.mark.long
def test_an_engine_tells_vllms_own_metrics_where_it_is_asked_to(tmp_path: Path) -> None:
    with head(tmp_path) as (environment, port):
        prompts = write_jsonl(tmp_path / "prompts.jsonl", requests(40))
        recipe = write_recipe(tmp_path, "microworld", prompts, models={"policy": {"engine": {"export_metrics": True}}})
        log = (tmp_path / "log").open("w")
        run = subprocess.Popen(cli(recipe, "--until", "revise"), env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: "ray_vllm_generation_tokens_total{" in samples(port)[0], 120, "vLLM's metrics", 1)
        finally:
            code = run.wait(300)
    assert code == 0, (tmp_path / "log").read_text()
