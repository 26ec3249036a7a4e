"""Each judgement on a good cluster, and on one where its subject is wrong: who is named, and what mends it."""

from __future__ import annotations

from typing import Any

import pytest

from cai_ray.doctor.checks import CHECKS
from cai_ray.doctor.facts import GIB, Dashboard, Facts, Finding, Gpu, Node

H100 = Gpu(name="NVIDIA H100", memory=80 * GIB)
GOOD = Node(
    host="head",
    address="10.0.0.1",
    versions={"python": "3.11.7", "ray": "2.60.0", "cai_ray": "0.1.0", "vllm": "0.32.0", "torch": "2.13.0"},
    gpus=(H100,),
    disk_free=100 * GIB,
    disk_total=200 * GIB,
    shm_total=16 * GIB,
    object_store=8 * GIB,
    open_files=65536,
    ray_socket="/tmp/ray/session_2026-11-27_06-00-00_000000_1/sockets/plasma_store",
    hub={"org/model": ""},
    keys={"MY_KEY": True},
)
SERVER = Dashboard(address="http://10.0.0.1:8265", bound_to=("127.0.0.1",), status_without_token=401)


def cluster(other: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """A good head and a node "one", which differs by `other`."""
    one = GOOD.model_copy(update={"host": "one", "address": "10.0.0.2", **(other or {})})
    sections = {"nodes": (GOOD, one), "output": "s3://bucket/run", "dashboard": SERVER, "does_not_fit": (), **changes}
    return Facts(**sections)


def found(facts: Facts) -> dict[str, Finding]:
    return {finding.check: finding for finding in (judge(facts) for judge in CHECKS)}


def test_a_good_cluster_is_green() -> None:
    findings = found(cluster())
    assert len(findings) == len(CHECKS)
    assert all(finding.is_well for finding in findings.values()), findings
    assert findings["versions"].told.startswith("python 3.11.7, ray 2.60.0") and "every node" in findings["hub"].told


@pytest.mark.parametrize(
    ("other", "check", "told", "mend"),
    [
        (
            {"versions": {**GOOD.versions, "torch": "2.12.0"}},
            "versions",
            "torch 2.12.0 on one, 2.13.0 on head",
            "image",
        ),
        ({"versions": {"python": "3.11.7"}}, "versions", "cai_ray 0.1.0 on head, none on one", "lock"),
        ({"storage_error": "AccessDenied"}, "storage", "s3://bucket/run: AccessDenied on one", "access"),
        ({"disk_free": 4 * GIB}, "disk", "4 GiB free on one", "--temp-dir"),
        ({"disk_free": 90 * GIB, "disk_total": 2000 * GIB}, "disk", "90 GiB free on one", "--temp-dir"),
        ({"object_store": 17 * GIB}, "object store", "17.0 GiB in 16.0 GiB of /dev/shm on one", "--shm-size"),
        ({"shm_total": 64 * 2**20, "object_store": 1}, "shared memory", "0.1 GiB on one", "--shm-size"),
        ({"open_files": 1024}, "open files", "1,024 a process on one", "ulimit -n"),
        ({"clock_offset": -9.0, "clock_doubt": 1.0}, "clock", "-9.0 s on one", "NTP"),
        ({"temp": "/scratch/" + "x" * 80}, "temporary path", "sockets of 126 bytes (of 107)", "TMPDIR"),
        ({"ray_socket": "/" + "x" * 110}, "temporary path", "sockets of 111 bytes", "--temp-dir"),
        ({"hub": {"org/model": "401 Unauthorized"}}, "hub", "org/model: 401 Unauthorized on one", "HF_TOKEN"),
        ({"keys": {"MY_KEY": False}}, "endpoint keys", "MY_KEY is not set on one", "export MY_KEY"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_on_a_node_names_it_and_the_mend(other: dict[str, Any], check: str, told: str, mend: str) -> None:
    findings = found(cluster(other))
    assert told in findings[check].told and mend in findings[check].mend, findings[check]
    assert [name for name, finding in findings.items() if not finding.is_well] == [check]


@pytest.mark.parametrize(
    ("changes", "check", "told"),
    [
        ({"unseen": ("one",)}, "storage", "the driver does not see what one writes"),
        ({"does_not_fit": ("ppo needs 90 GiB",)}, "GPU memory", "2 x NVIDIA H100 with 80 GiB: ppo needs 90 GiB"),
        ({"dashboard": SERVER.model_copy(update={"status_without_token": 200})}, "token", "answers who has no token"),
        ({"dashboard": SERVER.model_copy(update={"bound_to": ("8.8.8.8",)})}, "dashboard", "listens on 8.8.8.8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_the_cluster(changes: dict[str, Any], check: str, told: str) -> None:
    findings = found(cluster(**changes))
    assert told in findings[check].told and findings[check].mend
    assert [name for name, finding in findings.items() if not finding.is_well] == [check]


@pytest.mark.parametrize(
    ("bound_to", "status", "is_well"),
    [
        (("127.0.0.1",), 200, True),
        (("::1", "127.0.0.1"), 200, True),
        (("10.0.0.1",), 401, True),
        (("0.0.0.0",), 401, True),  # as in a pod, where a service must reach it
        (("10.0.0.1",), 200, False),
        (("::",), 200, False),
        ((), 200, True),
    ],
)
def test_where_the_dashboard_may_listen(bound_to: tuple[str, ...], status: int, is_well: bool) -> None:
    server = SERVER.model_copy(update={"bound_to": bound_to, "status_without_token": status})
    assert found(cluster(dashboard=server))["dashboard"].is_well == is_well


def test_clocks_are_not_blamed_for_a_slow_network() -> None:
    assert found(cluster({"clock_offset": 9.0, "clock_doubt": 6.0}))["clock"].is_well


def test_one_machine_without_a_recipe_is_green_too() -> None:
    alone = GOOD.model_copy(update={"gpus": (), "hub": {}, "keys": {}, "object_store": 0})
    findings = found(Facts(nodes=(alone,)))
    assert all(finding.is_well for finding in findings.values()), findings


def test_many_nodes_are_named_in_short() -> None:
    nodes = [GOOD.model_copy(update={"host": f"n{k}", "open_files": 1024 if k else 65536}) for k in range(9)]
    assert found(Facts(nodes=tuple(nodes)))["open files"].told == "1,024 a process on n1, n2, n3 and 5 more"
