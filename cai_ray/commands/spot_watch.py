"""`cai-ray spot-watch`: a cloud's notice that it takes this node back becomes a drain of the node.

Ray knows of a spot notice only what it is told. A node that drains gets no new work, and Ray Train tells its workers,
which save a checkpoint; what engines hold when the node goes is asked again on others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cai_ray.exits import edge

logger = logging.getLogger(__name__)
AWS, GCP = "http://169.254.169.254", "http://metadata.google.internal"
POLL_S = 2.0  # AWS gives two minutes of notice, GCP thirty seconds
ANSWER_LIMIT_S = 1.0
Notice = Callable[[], str | None]  # what the cloud says, once it takes the node back


def aws_notice(host: str = AWS) -> str | None:
    """EC2's instance action (IMDSv2), None while there is none. Raises OSError where nobody answers."""
    token = _asked(f"{host}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        said = _asked(f"{host}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    action = json.loads(said)
    return f"AWS: {action['action']} at {action['time']}"


def gcp_notice(host: str = GCP) -> str | None:
    """Compute Engine's `preempted`. Raises OSError where nobody answers."""
    said = _asked(f"{host}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return "GCP: preempted" if said.strip() == "TRUE" else None


def file_notice(path: Path) -> str | None:
    """A file that something else makes: a scheduler's hook, a test."""
    return f"{path} is there" if path.exists() else None


def _asked(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # Without the proxies of the environment: these addresses are the machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=ANSWER_LIMIT_S) as reply:
        return reply.read().decode()


def first_notice(sources: Sequence[Notice], told: threading.Event, poll_s: float = POLL_S) -> str:
    """Waits for a notice of any source, or until `told`. A source that cannot be asked is asked again."""
    while not told.is_set():
        for source in sources:
            try:
                if (notice := source()) is not None:
                    return notice
            except (OSError, ValueError, KeyError) as error:
                logger.debug("no answer: %s", error)
        told.wait(poll_s)
    return "SIGTERM"


def drain(reason: str, deadline_s: int, address: str | None) -> int:
    """Tell Ray that this node goes; the exit code of Ray's command, tried again while the cluster cannot be reached."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", reason, *(["--address", address] if address else [])]
    # Ray's command finds the node's own id by connecting, which RAY_ADDRESS decides.
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    ends = time.monotonic() + deadline_s
    while True:
        left_s = max(1, round(ends - time.monotonic()))
        code = subprocess.run([*command, "--deadline-remaining-seconds", str(left_s)], env=environment).returncode
        if code == 0 or left_s <= 1:
            return code
        time.sleep(POLL_S)


@edge
def spot_watch(
    cloud: Annotated[str, typer.Option(help="aws, gcp, or none: SIGTERM and --file alone.")] = "none",
    file: Annotated[Path | None, typer.Option(help="A file whose appearance is a notice.")] = None,
    deadline: Annotated[int, typer.Option(min=1, help="Seconds from a notice until the node goes.")] = 120,
    address: Annotated[str | None, typer.Option(help="HOST:6379; without: the Ray of this node.")] = None,
) -> None:
    """Beside `ray start` on every spot node: drain the node when the cloud takes it back, then end with 0."""
    clouds: dict[str, list[Notice]] = {"aws": [aws_notice], "gcp": [gcp_notice], "none": []}
    if cloud not in clouds:
        raise typer.BadParameter(f"{cloud!r} is not one of {', '.join(clouds)}", param_hint="--cloud")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    sources = clouds[cloud] + ([] if file is None else [lambda: file_notice(file)])
    notice = first_notice(sources, told)
    print(f"{os.uname().nodename}: {notice}; draining, {deadline} s are left", flush=True)
    raise typer.Exit(drain(notice, deadline, address))
