"""Case 22: a local output folder on nodes that do not share it is found before the first engine; one shared is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai_ray.artifacts.storage import Storage
from cai_ray.engines.shared_folder import check_seen
from cai_ray.errors import ConfigError
from cai_ray.exits import EXIT_BAD_INPUT
from tests.field.endpoint_runs import endpoint_recipe
from tests.field.server import FakeServer
from tests.hosts import GCS_PORT, hosts


def test_a_node_that_joined_since_says_what_it_does_not_see(tmp_path: Path) -> None:
    check_seen(Storage(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"does not see .*; set `output` to a folder that every node shares"):
        check_seen(Storage(str(tmp_path / "not-here")))


@pytest.mark.slow
@pytest.mark.hosts
@pytest.mark.timeout(600)
def test_a_folder_that_one_node_does_not_see_is_refused(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    with hosts(tmp_path / "hosts", "head", "one", private=[own]) as up:
        up.start_head()
        up.join("one")
        head = f"{up.address('head')}:{GCS_PORT}"
        server = FakeServer(url=f"http://{up.address('head')}:8399/v1")
        recipe = endpoint_recipe(shared, server, 8, cluster={"address": head}, output=str(own))
        run = ("python", "-m", "cai_ray.cli", "run", str(recipe), "--until", "revise")
        log = tmp_path / "server-log"
        up.start("head", "python", "-m", "tests.field.server", up.address("head"), "8399", "0", log=log)
        refused = up.run("head", *run)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        told = refused.stderr.splitlines()[-1]
        assert f"what head writes there is not seen by one ({up.address('one')})" in told and "set `output`" in told
        assert not log.read_text()
        assert "Traceback" not in refused.stderr
        ran = up.run("head", *run, "--set", f"output={shared}")
        assert ran.returncode == 0, ran.stderr
        assert not [path for path in (shared / "run").iterdir() if path.name.startswith(".tmp-")]
        assert len(log.read_text().splitlines()) == 8
        assert yaml.safe_load((shared / "run" / "revise" / "manifest.json").read_text())["rows_out"] == 8
