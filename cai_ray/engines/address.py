"""The address of a cluster, before Ray is asked to join it: Ray waits forty seconds for one that nobody answers.

Raises ConfigError for an address that is none of a cluster, ClusterAway for one where no cluster is now.
"""

from __future__ import annotations

import os
import re
import socket

from cai_ray.errors import ClusterAway, ConfigError

CONNECT_LIMIT_S = 5.0
# HTTP/2's first words. What serves gRPC, as Ray's head does, answers with its SETTINGS.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS = 4
START = "start one by `ray start --head`"


def check_address(address: str, limit_s: float = CONNECT_LIMIT_S) -> None:
    """That `address`, of `cluster.address` or RAY_ADDRESS, is one of a running cluster; takes at most 2 * `limit_s`."""
    if address in ("auto", "local"):
        return
    scheme, _, rest = address.rpartition("://")
    if scheme:
        what = "a dashboard" if scheme.startswith("http") else "Ray Client"
        raise ConfigError(
            f"cluster address {address!r} is one of {what}; on a node of the cluster set the address of the head, "
            f"HOST:6379; from elsewhere run `cai-ray submit RECIPE --address http://{rest.partition(':')[0]}:8265`"
        )
    found = re.fullmatch(r"\[?([^\s\]/]+?)\]?:(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"cluster address {address!r} is not HOST:PORT, e.g. 10.0.0.1:6379, nor auto")
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=limit_s) as connection:
            is_ray = _serves_grpc(connection)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise ClusterAway(f"the name of cluster address {address!r} cannot be looked up now: {error}") from error
        raise ConfigError(f"cluster address {address!r}: no host has that name; correct it") from error
    except OSError as error:
        raise ClusterAway(
            f"no Ray cluster answers at {address!r} ({error}); wait for its head, {START}, or correct the address"
        ) from error
    if not is_ray:
        raise ConfigError(f"what answers at cluster address {address!r} is not Ray; a head listens on 6379 by default")


def _serves_grpc(connection: socket.socket) -> bool:
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false"):
        return True  # it speaks only to who has its certificate
    connection.sendall(HELLO)
    try:
        answer = connection.recv(9)
    except OSError:  # silence, or the door
        return False
    return len(answer) == 9 and answer[3] == SETTINGS
