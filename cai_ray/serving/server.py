"""Serve one model over HTTP: Ray Serve replicas of a live vLLM engine and vLLM's own OpenAI application.

Loopback without a token, or any address with one. On SIGTERM or Ctrl-C the server takes no new requests (503), lets
those inside finish, and ends; a second Ctrl-C ends it at once.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pydantic import Field, ValidationError, model_validator

from cai_ray.config import Config as BaseConfig
from cai_ray.config import ModelConfig
from cai_ray.engines.cluster import ClusterConfig, connected, gpus_per_engine
from cai_ray.engines.groups import check_one_node
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.serving.prepare import Limits

logger = logging.getLogger(__name__)
APPLICATION = "cai_ray"
MIN_TOKEN_LENGTH = 16
SPARE_REQUESTS = 64  # beyond the limit, so that a replica is reached and can answer 429 in OpenAI's words
START_TRIES = 2
# Ray Serve replaces a proxy that is not up within 5 s, which on a busy machine none ever is.
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}


class Config(BaseConfig):
    """One server."""

    name: str = Field(min_length=1, description="What clients call the model.")
    model: ModelConfig
    host: str = Field("127.0.0.1", description="Address to listen on; beyond loopback a token is required.")
    port: int = Field(8000, ge=1, le=65535)
    token_env: str | None = Field(None, description="NAME of the environment variable that holds the token.")
    tool_parser: str | None = Field(
        None, description="vLLM's parser of this model's tool calls (hermes, llama3_json, ...); null: no `tools`."
    )
    limits: Limits = Limits()
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1, description="Ray Serve grows the replicas up to here while requests wait.")
    target_requests: float | None = Field(
        None, gt=0, description="Requests per replica to scale for; null: half of model.engine.max_num_seqs."
    )
    upscale_delay_s: float = Field(10.0, ge=0, description="So long too many requests, before a replica is added.")
    downscale_delay_s: float = Field(300.0, ge=0, description="So long too few, before one is drained and removed.")
    cpus_per_replica: float = Field(1.0, ge=0, description="Logical CPUs reserved per replica.")
    drain_s: float = Field(60.0, ge=0, description="At the end, requests inside have so long to finish.")
    cluster: ClusterConfig = ClusterConfig(object_store_gib=0.25)

    @model_validator(mode="after")
    def _ordered(self) -> Config:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}; raise it")
        return self


def configure(settings: Mapping[str, Any]) -> Config:
    """Validate. Raises ConfigError that names every mistake."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        mistakes = [f"  - {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()]
        if any(mistake["type"] == "extra_forbidden" for mistake in error.errors()):
            mistakes.append(f"  a server's settings: {', '.join(Config.model_fields)}")
        raise ConfigError("\n".join(["serve:", *mistakes])) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_of(config: Config) -> str | None:
    """The token that clients must present. Raises ConfigError when one is needed, or named, and is not there."""
    if config.token_env is None:
        if not is_loopback(config.host):
            raise ConfigError(
                f"host {config.host!r} can be reached from other machines, so clients need a token: put one into an "
                "environment variable and name the variable (--token-env NAME), or serve on 127.0.0.1"
            )
        return None
    token = os.environ.get(config.token_env, "").strip()
    if len(token) < MIN_TOKEN_LENGTH:
        raise ConfigError(
            f"the environment variable {config.token_env!r} holds {'a token of ' if token else ''}{len(token)} "
            f"characters; a token has {MIN_TOKEN_LENGTH} at least (openssl rand -hex 32)"
        )
    return token


class Replica:
    """One engine and its HTTP application; Ray Serve makes and ends it."""

    def __init__(self, config: Config, digest: bytes | None) -> None:
        from cai_ray.serving.doorkeeper import Doorkeeper, Face
        from cai_ray.serving.live_model import LiveModel
        from cai_ray.serving.vllm_app import served_engine

        self._config = config
        self._model = LiveModel(served_engine(config.model, config.limits))
        self._door = Doorkeeper(Face(config.limits, digest, max_inside(config)))

    async def __serve_build_asgi_app__(self) -> Any:
        from cai_ray.serving.app import build_app
        from cai_ray.serving.vllm_app import vllm_app

        await self._model.start()
        config = self._config
        inner, prepares = await vllm_app(self._model, config.name, config.limits, config.tool_parser)
        return build_app(inner, self._door, prepares, lambda: self._model.is_dead)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here."""
        if self._model.is_dead:
            raise RuntimeError("the engine died")

    async def drain(self, limit_s: float) -> int:
        """See Doorkeeper.drain."""
        return await self._door.drain(limit_s)

    def __del__(self) -> None:
        model = getattr(self, "_model", None)
        if model is not None:
            model.close()


def max_inside(config: Config) -> int:
    """Requests that one replica takes at once, running and waiting."""
    return config.model.engine.max_num_seqs + config.limits.queued_requests


def run(config: Config, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain. `announce` gets a line for the person who waits.

    Raises ConfigError for what cannot be served, EngineGaveUp when the engine does not start.
    """
    token = token_of(config)
    _check_port(config)
    from cai_ray.serving.live_model import ready_to_serve

    config = config.model_copy(update={"model": ready_to_serve(config.model)})
    with connected(_cluster(config)), _serving(config, token) as handle, _asked_to_stop() as stop:
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}/v1"
        announce(f"serving {config.name} at {url} (Ctrl-C ends)")
        stop.wait()
        announce(
            f"taking no new requests; those inside have {config.drain_s:g} s to finish (Ctrl-C again ends at once)"
        )
        num_left = _drain(handle, config.drain_s)
        announce(
            "all requests are done" if num_left == 0 else f"{num_left} requests were not done in time and are lost"
        )


def _cluster(config: Config) -> ClusterConfig:
    """A local Ray with room for the replicas; Serve's own actors reserve nothing."""
    num_cpus = config.cluster.num_cpus or max(
        os.cpu_count() or 1, math.ceil(config.max_replicas * config.cpus_per_replica)
    )
    return config.cluster.model_copy(update={"num_cpus": num_cpus})


def _check_port(config: Config) -> None:
    if config.cluster.address or os.environ.get("RAY_ADDRESS"):
        return  # the port is another machine's
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise ConfigError(
                f"{config.host}:{config.port} cannot be listened on: {error.strerror}; give another --host or --port"
            ) from error


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the next one raises KeyboardInterrupt."""
    asked = threading.Event()

    def heard(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _serving(config: Config, token: str | None) -> Iterator[Any]:
    """A running application's handle; Ray Serve is shut down afterwards. Raises EngineGaveUp, ConfigError."""
    from ray import serve
    from ray.serve.config import ProxyLocation
    from ray.serve.schema import LoggingConfig

    from cai_ray.serving.doorkeeper import token_digest

    _refuse_a_second_serve()
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        try:
            serve.start(
                proxy_location=ProxyLocation.HeadOnly,
                http_options={"host": config.host, "port": config.port},
                logging_config=quiet,
                controller_options={"runtime_env": {"env_vars": PATIENCE}},
            )
            application = _deployment(config).bind(config, token_digest(token) if token else None)
            handle = serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
            handle.check_health.remote().result(timeout_s=60)  # now the handle knows its replicas, for `_drain`
        except (RuntimeError, TimeoutError) as error:
            raise EngineGaveUp(f"the server does not start: {error}") from error
        yield handle
    finally:
        serve.shutdown()


def _refuse_a_second_serve() -> None:
    """A Ray Serve that runs keeps its address, whatever is asked: it may listen where no token was thought of."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:
        return
    raise ConfigError("Ray Serve runs on this cluster already, at an address of its own; end it first (serve shutdown)")


def _deployment(config: Config) -> Any:
    from ray import serve

    engine = config.model.engine
    check_one_node(engine, "a served model is")
    num_requests = max_inside(config) + SPARE_REQUESTS
    options = serve.deployment(
        name="model",
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": gpus_per_engine(engine),
        },
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_requests or max(1.0, engine.max_num_seqs / 2),
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        },
        max_ongoing_requests=num_requests,
        graceful_shutdown_timeout_s=max(1.0, config.drain_s),
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5.0,
        max_constructor_retry_count=START_TRIES,
    )
    return options(serve.ingress()(Replica))


def _drain(handle: Any, limit_s: float) -> int:
    """Every replica's doorkeeper takes no more; requests that were not done in time."""
    try:
        left: list[int] = handle.broadcast("drain", limit_s).results(timeout_s=limit_s + 10)
    except TimeoutError:  # a replica that does not answer cannot be waited for
        return 1
    return sum(left)
