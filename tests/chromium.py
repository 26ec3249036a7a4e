"""A headless Chromium for tests of pages, driven over its own protocol (DevTools) through a web socket.

Needs Debian's package `chromium`, or another build of it on the PATH.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

MISSING = "no Chromium on the PATH; Debian and Ubuntu: apt-get install chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--remote-debugging-port=0", "--hide-scrollbars",
)  # fmt: skip
START_LIMIT_S = 60.0
CALL_LIMIT_S = 60.0


class Page:
    """One tab. Remembers what the page asked the network for and what it said on the console."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._num_calls = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []  # console errors and warnings, exceptions, violations of the page's policy
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result. Raises RuntimeError when the browser refuses it."""
        self._num_calls += 1
        self._socket.send(json.dumps({"id": self._num_calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=CALL_LIMIT_S))
            if message.get("id") == self._num_calls:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        method, about = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {about['message']}")

    def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        """CSS pixels; under 600 a phone."""
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if is_phone else 1, mobile=is_phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path) -> None:
        """Load a local file and wait until it is there."""
        self.call("Page.navigate", url=file.resolve().as_uri())
        deadline = time.monotonic() + CALL_LIMIT_S
        while self.value("document.readyState") != "complete" or self.value("location.href") == "about:blank":
            assert time.monotonic() < deadline, f"{file} did not load"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth. Raises RuntimeError when it throws."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def picture(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page; `whole`: all its height."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


def installed() -> str | None:
    """The browser's program; None when there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile in the folder `profile`."""
    program = installed()
    assert program, MISSING
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_socket_of_tab(_port(profile, process)), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that the browser chose, from the file it writes once it listens."""
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_LIMIT_S
    while not (told.exists() and told.read_text().strip()):
        assert process.poll() is None, f"Chromium ended with {process.returncode} before it listened"
        assert time.monotonic() < deadline, f"Chromium did not listen within {START_LIMIT_S:g} s"
        time.sleep(0.05)
    return int(told.read_text().splitlines()[0])


def _socket_of_tab(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=START_LIMIT_S) as answer:
        tabs = json.load(answer)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
