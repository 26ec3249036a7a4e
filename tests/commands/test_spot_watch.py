"""A spot notice drains the node: every source of one, and the drain itself on a real Ray node."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.commands import spot_watch
from cai_ray.commands.spot_watch import aws_notice, file_notice, first_notice, gcp_notice
from tests.runs import wait_for


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' metadata servers."""

    taken = False

    def do_PUT(self) -> None:
        self._say(200, "a-token") if self.path == "/latest/api/token" else self._say(405, "")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "a-token":
                self._say(401, "")
            elif self.taken:
                self._say(200, '{"action": "terminate", "time": "2026-11-27T10:00:00Z"}')
            else:
                self._say(404, "")
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self._say(200, "TRUE" if self.taken else "FALSE")
        else:
            self._say(403, "")

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Metadata, "taken", False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_what_the_clouds_say(host: str) -> None:
    assert aws_notice(host) is None and gcp_notice(host) is None
    Metadata.taken = True
    assert aws_notice(host) == "AWS: terminate at 2026-11-27T10:00:00Z"
    assert gcp_notice(host) == "GCP: preempted"


def test_a_server_that_does_not_answer_is_asked_again(host: str, tmp_path: Path) -> None:
    asked: list[str] = []

    def away() -> str | None:
        asked.append("away")
        return aws_notice("http://127.0.0.1:9")

    def later() -> str | None:
        return file_notice(tmp_path / "notice")

    threading.Timer(0.2, (tmp_path / "notice").touch).start()
    assert first_notice([away, later], threading.Event(), 0.02) == f"{tmp_path / 'notice'} is there"
    assert len(asked) > 1


def test_a_drain_is_tried_again_until_the_node_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []

    def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        assert env["RAY_ADDRESS"] == "10.0.0.1:6379"
        said.append(command[2:])
        return subprocess.CompletedProcess(command, 0 if len(said) == 2 else 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(spot_watch, "POLL_S", 0.0)
    assert spot_watch.drain("AWS: terminate", 90, "10.0.0.1:6379") == 0
    assert len(said) == 2
    assert said[0] == [
        *("ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", "AWS: terminate", "--address", "10.0.0.1:6379", "--deadline-remaining-seconds", "90"),
    ]


def test_an_unknown_cloud_is_refused() -> None:
    result = CliRunner().invoke(app, ["spot-watch", "--cloud", "moon"])
    assert result.exit_code == 2 and "aws, gcp, none" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "SIGTERM"])
def test_ray_hears_that_the_node_goes(how: str, tmp_path: Path) -> None:
    """In a process of its own, because this one may be connected to another Ray."""
    done = subprocess.run(
        [sys.executable, __file__, how, str(tmp_path / "notice")], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def main(how: str, notice: Path) -> None:
    """A node of its own, which a notice drains."""
    import ray
    from ray._private.state import state

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    ray.remote(lambda: time.sleep(60)).remote()  # a node that drains and has nothing to do ends at once
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cai_ray.cli", "spot-watch", "--file", str(notice), "--address", address]
    watcher = subprocess.Popen([*command, "--deadline", "60"], stdout=subprocess.PIPE, text=True)
    time.sleep(5)
    assert watcher.poll() is None, "it waits for a notice"
    if how == "file":
        notice.touch()
    else:
        watcher.send_signal(signal.SIGTERM)
    words, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and "draining, 60 s are left" in words, words
    [left_ms] = wait_for(state.get_draining_nodes, 20, "the drain").values()
    assert 0 < left_ms / 1000 - time.time() <= 60


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
