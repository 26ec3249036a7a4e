"""tests/hosts.py itself: hosts reach each other, are cut off and healed, keep to their folders, and are lost whole."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.hosts import Hosts, hosts
from tests.runs import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(120)]
PORT = 8500


def reaches(up: Hosts, name: str, other: str) -> bool:
    code = f"import socket; socket.create_connection(({other!r}, {PORT}), timeout=2)"
    return up.run(name, "python", "-c", code).returncode == 0


def test_hosts_are_apart(tmp_path: Path) -> None:
    own = tmp_path / "own"
    with hosts(tmp_path / "hosts", "head", "one", private=[own], shm="64m") as up:
        assert up.run("one", "hostname").stdout.strip() == "one"
        up.start("one", "python", "-m", "http.server", str(PORT), log=tmp_path / "log")
        wait_for(lambda: reaches(up, "head", "one"), 20, "a server on the other host")
        up.cut("one")
        assert not reaches(up, "head", "one") and reaches(up, "one", "localhost")
        up.heal("one")
        wait_for(lambda: reaches(up, "head", "one"), 20, "the host is back")
        up.run("head", "touch", str(own / "here"), str(tmp_path / "shared"))
        assert up.run("one", "ls", str(own)).stdout == "" and (tmp_path / "shared").exists()
        assert "64M" in up.run("one", "df", "-h", "/dev/shm").stdout
        assert not reaches(up, "head", "8.8.8.8")
        sleeper = up.start("one", "sleep", "60", log=tmp_path / "log")
        wait_for(lambda: "sleep" in up.run("one", "ps", "-e").stdout, 20, "a process")
        up.kill("one")
        assert sleeper.wait(20) != 0
        server = up.start("head", "sleep", "60", log=tmp_path / "log")
        wait_for(lambda: "sleep" in up.run("head", "ps", "-e").stdout, 20, "a process")
        up.send(signal.SIGTERM, server)
        assert server.wait(20) != 0
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert up.tag not in listed
