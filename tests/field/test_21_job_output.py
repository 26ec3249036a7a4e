"""Case 21: a job with a working directory and a relative `output` is refused; a dead cluster is told at once."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from cai_ray.exits import EXIT_BAD_INPUT, EXIT_RETRYABLE
from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import FakeServer, serving
from tests.runs import cli

pytestmark = pytest.mark.slow


def run(recipe: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        cli(recipe, "--until", "revise", *arguments), capture_output=True, text=True, timeout=100, cwd=cwd
    )


def test_a_relative_output_in_a_jobs_copy_is_refused_before_anything_starts(tmp_path: Path) -> None:
    copy = tmp_path / "_ray_pkg_0123456789abcdef"
    with serving() as server:
        recipe = endpoint_recipe(copy, server, 4)
        refused = run(recipe, "--set", "output=runs", cwd=copy)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert "set `output` to an absolute folder" in refused.stderr and "Traceback" not in refused.stderr
        assert not (copy / "runs").exists() and not server.num_asked


@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        ("127.0.0.1:1", EXIT_RETRYABLE, "no Ray cluster answers at '127.0.0.1:1'"),
        ("http://127.0.0.1:8265", EXIT_BAD_INPUT, "cai-ray submit RECIPE --address"),
        ("SERVER", EXIT_BAD_INPUT, "is not Ray"),
    ],
)
def test_a_dead_or_wrong_cluster_is_one_message_in_seconds(address: str, code: int, told: str, tmp_path: Path) -> None:
    with serving() as server:
        recipe = endpoint_recipe(tmp_path, FakeServer(url=server.url), 4)
        address = address.replace("SERVER", server.url.removeprefix("http://").removesuffix("/v1"))
        began = time.monotonic()
        ended = run(recipe, "--set", f"cluster.address='{address}'")
        assert ended.returncode == code, ended.stderr
        assert told in ended.stderr and "Traceback" not in ended.stderr
        assert time.monotonic() - began < 60
        assert not server.num_asked
