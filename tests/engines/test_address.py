"""Addresses of clusters: wrong ones, dead ones and those of something else, each told apart in no time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cai_ray.engines.address import SETTINGS, check_address
from cai_ray.errors import ClusterAway, ConfigError

SAYS_SETTINGS = bytes((0, 0, 6, SETTINGS, 0, 0, 0, 0, 0)) + bytes(6)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that takes one connection and answers so; never, with None."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is not None:
                    connection.sendall(answer)
                ended.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://10.0.0.1:8265", "is one of a dashboard.*cai-ray submit RECIPE --address http://10.0.0.1:8265"),
        ("ray://head:10001", "Ray Client.*cai-ray submit RECIPE --address http://head:8265"),
        ("head", "is not HOST:PORT"),
        ("head:port", "is not HOST:PORT"),
        ("head:70000", "is not HOST:PORT"),
        ("no-such-host.invalid:6379", "no host has that name"),
    ],
)
def test_a_wrong_address_is_to_be_mended(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(ConfigError, match=told):
        check_address(address)


def test_a_name_that_cannot_be_looked_up_now_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", later)
    with pytest.raises(ClusterAway, match="cannot be looked up now"):
        check_address("head:6379")


def test_a_dead_head_may_be_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterAway, match="wait for its head, start one by `ray start --head`"):
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0"])
def test_something_else_is_not_taken_for_ray(answer: bytes | None) -> None:
    began = time.monotonic()
    with answering(answer) as address, pytest.raises(ConfigError, match="is not Ray"):
        check_address(address, limit_s=0.5)
    assert time.monotonic() - began < 5


def test_what_may_be_ray_is_left_to_ray() -> None:
    with answering(SAYS_SETTINGS) as address:
        check_address(address)
    for address in ("auto", "local"):
        check_address(address)
