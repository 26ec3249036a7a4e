"""What can be wrong before a server starts. (The server itself: tests/cluster/test_serve.py.)"""

from __future__ import annotations

import socket
from typing import Any

import pytest

from cai_ray.errors import ConfigError
from cai_ray.serving.server import Config, _check_port, configure, is_loopback, max_inside, token_of

TOKEN_ENV = "CAI_RAY_TEST_TOKEN"


def config(**settings: Any) -> Config:
    return configure({"name": "m", "model": {"path": "/models/m"}} | settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert token_of(config(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org"])
def test_every_other_address_does(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"clients need a token.*--token-env"):
        token_of(config(host=host))
    monkeypatch.setenv(TOKEN_ENV, " 0123456789abcdef\n")
    assert token_of(config(host=host, token_env=TOKEN_ENV)) == "0123456789abcdef"


def test_a_token_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    with pytest.raises(ConfigError, match=f"'{TOKEN_ENV}' holds 0 characters"):
        token_of(config(token_env=TOKEN_ENV))
    monkeypatch.setenv(TOKEN_ENV, "short-secret")
    with pytest.raises(ConfigError, match="a token of 12 characters") as caught:
        token_of(config(token_env=TOKEN_ENV))
    assert "short-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"port": 0}, "port = 0"),
        ({"max_replica": 2}, "(?s)max_replica = 2.*settings: name, model, host"),
        ({"min_replicas": 3}, "max_replicas=1 is below min_replicas=3"),
        ({"limits": {"body_bytes": 5}}, "limits.body_bytes = 5"),
        ({"model": {"engine": {"max_num_seqs": 0}}}, "model.engine.max_num_seqs = 0"),
    ],
)
def test_settings_that_make_no_server(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**settings)


def test_requests_at_once() -> None:
    settings = {"model": {"path": "m", "engine": {"max_num_seqs": 10}}, "limits": {"queued_requests": 5}}
    assert max_inside(config(**settings)) == 15


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            _check_port(config(port=taken.getsockname()[1]))
