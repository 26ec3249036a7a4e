"""`cai-ray doctor` on hosts of their own: what is wrong on one is found from a node, and through the dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import FakeServer
from tests.hosts import GCS_PORT, hosts

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(600)]
DOCTOR = ("python", "-m", "cai_ray.cli", "doctor")


def test_a_cluster_is_examined_from_inside_and_outside(tmp_path: Path) -> None:
    own = tmp_path / "own"
    keyed = {"models": {"policy": {"endpoint": {"api_key_env": "MY_ENDPOINT_KEY"}}}}
    recipe = endpoint_recipe(tmp_path / "shared", FakeServer(url="http://127.0.0.1:9/v1"), 4, **keyed)
    with hosts(tmp_path / "hosts", "head", "one", "outside", private=[own], shm="1500m") as up:
        up.keys["MY_ENDPOINT_KEY"] = "secret-canary"
        up.start_head()
        del up.keys["MY_ENDPOINT_KEY"]
        up.join("one")
        head = f"{up.address('head')}:{GCS_PORT}"
        well = up.run("one", *DOCTOR, "--address", head, timeout=200)
        assert well.returncode == 0, well.stdout + well.stderr
        assert "refuses who has none (401)" in " ".join(well.stdout.split())
        assert f"listens on {up.address('head')}" in well.stdout and "every node" in well.stdout
        ill = up.run("head", *DOCTOR, str(recipe), "--set", f"output={own}", "--address", head, timeout=200)
        assert ill.returncode == 2, ill.stdout + ill.stderr
        words = " ".join(ill.stdout.split())
        assert "MY_ENDPOINT_KEY is not set on one" in words and "mend: export MY_ENDPOINT_KEY" in words
        assert "does not see what the driver wrote on one" in words and "2 of 13 to mend" in words
        job = up.run("one", *DOCTOR, str(recipe), "--address", up.dashboard, "--json", timeout=300)
        assert job.returncode == 2, job.stdout + job.stderr
        body = json.loads(job.stdout.splitlines()[-1])
        assert [finding["check"] for finding in body["findings"] if finding["mend"]] == ["endpoint keys"]
        assert {node["host"] for node in body["facts"]["nodes"]} == {"head", "one"}
        outside = up.run("outside", *DOCTOR, "--address", head, timeout=200)
        assert outside.returncode == 2 and "is not a node of the cluster" in outside.stderr, outside.stderr
        assert "secret-canary" not in ill.stdout + job.stdout
