"""Several hosts on this machine, for tests of clusters: namespaces of network, processes, names, mounts and memory.

Each host has an address of TEST-NET-1 on a switch of their own (no route to the real network), its own process ids (its
init killed is a host lost), host name, /dev/shm and /tmp/ray. All see the same disk, as with NFS, but for the folders
that are `private`. Needs root: `why_not` says why a test must skip.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("ip", "unshare", "nsenter", "mount")
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
RAY_FOLDER = Path("/tmp/ray")
GCS_PORT, DASHBOARD_PORT = 6379, 8265
INIT = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        time.sleep(0.1)
"""


def why_not() -> str | None:
    """Why this machine cannot hold hosts; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)} (iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Hosts:
    """Hosts that are up. The first is the head.

    Attributes:
        folder: what belongs to them, outside of every host's private folders.
        token: of the Ray cluster; every command is given its path.
        keys: further environment variables of every command.
        port: the last one that a test took for a server of its own.
    """

    folder: Path
    names: Sequence[str]
    tag: str
    token: str
    inits: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    port: int = 8400

    def address(self, name: str) -> str:
        return f"192.0.2.{self.names.index(name) + 1}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.address(self.names[0])}:{DASHBOARD_PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command; the real machine's proxies and Ray settings stay out."""
        kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("RAY_")}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            **self.keys,
        }

    def command(self, name: str, command: Sequence[str], cwd: Path | None = None) -> list[str]:
        """The command line that runs `command` on a host."""
        inside = f"cd {shlex.quote(str(cwd or self.folder))} && exec {shlex.join(command)}"
        return ["nsenter", "--target", str(self._init(name)), *NAMESPACES, "--", "sh", "-c", inside]

    def run(
        self,
        name: str,
        *command: str,
        cwd: Path | None = None,
        timeout: float = 120,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command on a host, to its end, with what it said."""
        env = self.environment | (environment or {})
        whole = self.command(name, command, cwd)
        return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    def start(self, name: str, *command: str, log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """A command on a host, left running."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command(name, command, cwd),
                env=self.environment,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
            )

    def send(self, number: signal.Signals, process: subprocess.Popen[bytes]) -> None:
        """A signal to what `start` has left running; it would not get past the way into the namespaces."""
        psutil.Process(process.pid).children()[0].send_signal(number)

    def start_head(self, *options: str, num_cpus: int = 0) -> None:
        """Ray's head on the first host, with the dashboard that jobs are submitted to."""
        own = self.address(self.names[0])
        place = ("--head", f"--port={GCS_PORT}", f"--dashboard-host={own}", f"--dashboard-port={DASHBOARD_PORT}")
        self._start_ray(self.names[0], *place, f"--num-cpus={num_cpus}", *options)

    def join(self, name: str, *options: str, num_cpus: int = 2) -> None:
        """Ray's worker node on a host."""
        head = f"{self.address(self.names[0])}:{GCS_PORT}"
        self._start_ray(name, f"--address={head}", f"--num-cpus={num_cpus}", *options)

    def _start_ray(self, name: str, *options: str) -> None:
        given = [option.partition("=")[0] for option in options]
        memory = () if "--object-store-memory" in given else ("--object-store-memory=100000000",)
        ended = self.run(
            name, "ray", "start", f"--node-ip-address={self.address(name)}", *memory, *options, "--disable-usage-stats"
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def kill(self, name: str) -> None:
        """The host is lost, with all that runs there."""
        with suppress(ProcessLookupError):
            os.kill(self._init(name), 9)
        self.inits.pop(name).wait(30)

    def cut(self, name: str) -> None:
        """Nothing reaches the host any more; `heal` ends that."""
        _ip("-n", f"{self.tag}-{name}", "link", "set", "eth", "down")

    def heal(self, name: str) -> None:
        _ip("-n", f"{self.tag}-{name}", "link", "set", "eth", "up")

    def _init(self, name: str) -> int:
        """The process id of a host's init, as seen from here."""
        children = Path(f"/proc/{self.inits[name].pid}/task/{self.inits[name].pid}/children").read_text().split()
        return int(children[0])


@contextmanager
def hosts(folder: Path, *names: str, private: Sequence[Path] = (), shm: str = "1g") -> Iterator[Hosts]:
    """Hosts of these names, the first the head; all that runs on them ends with the block.

    `private`: folders that each host has to itself; `shm`: the size of each /dev/shm. Skips the test where this machine
    cannot hold them.
    """
    if reason := why_not():
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    up = Hosts(folder, names, f"cai{os.getpid()}", secrets.token_hex(32))
    (folder / "token").write_text(up.token)
    RAY_FOLDER.mkdir(exist_ok=True)
    switch = f"{up.tag}-switch"
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        known = "".join(f"{up.address(name)} {name}\n" for name in names)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        for name in names:
            _plug_in(up, name, switch)
            up.inits[name] = _boot(up, name, private, shm)
        deadline = time.monotonic() + 20
        while not all((folder / name / "is-up").exists() for name in names):
            assert time.monotonic() < deadline, [(folder / name / "log").read_text() for name in names]
            time.sleep(0.05)
        yield up
    finally:
        for name in [*up.inits]:
            with suppress(IndexError, OSError):
                up.kill(name)
        for name in (*names, "switch"):
            subprocess.run(["ip", "netns", "del", f"{up.tag}-{name}"], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


def _plug_in(up: Hosts, name: str, switch: str) -> None:
    space = f"{up.tag}-{name}"
    _ip("netns", "add", space)
    _ip("-n", space, "link", "add", "eth", "type", "veth", "peer", "name", name, "netns", switch)
    _ip("-n", switch, "link", "set", name, "master", "bridge", "up")
    _ip("-n", space, "addr", "add", f"{up.address(name)}/24", "dev", "eth")
    for link in ("lo", "eth"):
        _ip("-n", space, "link", "set", link, "up")


def _boot(up: Hosts, name: str, private: Sequence[Path], shm: str) -> subprocess.Popen[bytes]:
    own = up.folder / name
    lines = ["set -e", "mount --make-rprivate /", "mount -t proc proc /proc", f"hostname {name}"]
    for number, path in enumerate((RAY_FOLDER, *private)):
        (own / str(number)).mkdir(parents=True)
        path.mkdir(parents=True, exist_ok=True)
        lines.append(f"mount --bind {shlex.quote(str(own / str(number)))} {shlex.quote(str(path))}")
    lines += [
        f"mount -t tmpfs -o size={shm},mode=1777 shm /dev/shm",
        f"mount --bind {shlex.quote(str(up.folder / 'hosts'))} /etc/hosts",
        f"touch {shlex.quote(str(own / 'is-up'))}",
        f"exec {shlex.quote(sys.executable)} -c {shlex.quote(INIT)}",
    ]
    spaces = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
    with (own / "log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", f"{up.tag}-{name}", "unshare", *spaces, "sh", "-c", "\n".join(lines)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
