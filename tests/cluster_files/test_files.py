"""Every file of clusters/ is right by the tools and schemas of those who read it, and a typo in one is caught."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.cluster_files.checks import FOLDER, complaints

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix not in (".md", ".json", ".dockerignore"))
TYPOS = [
    ("aws.yaml", "idle_timeout_minutes", "idle_timeout"),
    ("aws.yaml", "InstanceMarketOptions", "InstanceMarketOption"),
    ("aws.yaml", "MarketType: spot", "MarketType: spott"),
    ("aws.yaml", "cache_stopped_nodes", "cached_stopped_nodes"),
    ("aws.yaml", "head_node_type: head", "head_node_type: haed"),
    ("aws.yaml", "--dashboard-host", "--dashbord-host"),
    ("aws.yaml", "--cloud", "--clowd"),
    ("gcp.yaml", "spot-watch", "spot-wach"),
    ("gcp.yaml", "max_workers: 8", "max_worker: 8"),
    ("gcp.yaml", "preemptible", "preemtible"),
    ("gcp.yaml", "project_id", "projectid"),
    ("gcp.yaml", "container_name", "containername"),
    ("kuberay-rayjob.yaml", "backoffLimit", "backOffLimit"),
    ("kuberay-rayjob.yaml", "submissionMode: SidecarMode", "submissionMode: Sidecar"),
    ("kuberay-rayjob.yaml", "authOptions: {mode: token}", "authOptions: {mode: tokn}"),
    ("kuberay-rayjob.yaml", "medium: Memory", "medum: Memory"),
    ("kuberay-rayjob.yaml", "storageClassName", "storageClasName"),
    ("kuberay-raycluster.yaml", "preStop", "preSop"),
    ("kuberay-raycluster.yaml", "--deadline", "--dedline"),
    ("kuberay-raycluster.yaml", "version: v2", "version: v3"),
    ("kuberay-raycluster.yaml", "allowPrivilegeEscalation", "allowPrivilegeEscalations"),
    ("kuberay-raycluster.yaml", "minReplicas", "minReplica"),
    ("skypilot.yaml", "num_nodes", "num_node"),
    ("skypilot.yaml", "use_spot: true", "use_spott: true"),
    ("skypilot.yaml", "recover_on_exit_codes", "recover_on_exit_code"),
    ("skypilot.yaml", "done\n", "don\n"),
    ("slurm.sbatch", "#SBATCH --requeue", "#SBATCH --requeu"),
    ("slurm.sbatch", "--min-nodes", "--min-node"),
    ("slurm.sbatch", 'if [ "$code"', 'if ["$code"'),
    ("slurm.sbatch", "${RAY_START_OPTIONS:-}", "--dashboard-host=0.0.0.0"),
    ("local.sh", "esac", "esca"),
    ("local.sh", "--address=", "--adress="),
    ("Dockerfile", "USER 1000", "USR 1000"),
    ("Dockerfile", "FROM python:3.11.14-slim-bookworm", "FROM python"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_right(name: str) -> None:
    assert complaints(name, (FOLDER / name).read_text()) == []


@pytest.mark.parametrize(("name", "right", "wrong"), TYPOS, ids=[f"{name}: {wrong}" for name, _, wrong in TYPOS])
def test_a_typo_is_caught(name: str, right: str, wrong: str) -> None:
    text = (FOLDER / name).read_text()
    assert right in text
    assert complaints(name, text.replace(right, wrong)), f"{wrong!r} passes"


def test_each_file_has_typos_planted() -> None:
    assert {name for name, _, _ in TYPOS} == set(FILES)


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith(".yaml")])
def test_spot_nodes_are_watched(name: str) -> None:
    assert "cai-ray spot-watch" in (FOLDER / name).read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def test_the_job_brings_the_cluster_that_stays() -> None:
    (job_volume, job), (volume, cluster) = documents("kuberay-rayjob.yaml"), documents("kuberay-raycluster.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"] and job_volume == volume


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_launched_cluster_is_closed_and_gives_its_nodes_back(name: str) -> None:
    (config,) = documents(name)
    kinds = config["available_node_types"]
    head, *workers = kinds.values()
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert all(kind["min_workers"] == 0 for kind in workers) and config["idle_timeout_minutes"] > 0
    assert kinds["gpu-spot"]["priority"] > kinds["gpu-on-demand"]["priority"]
    starts = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-2]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "RAY_enable_autoscaler_v2=1" in starts[0]
    assert config["file_mounts"] == {"/home/ray/.ray": "~/.ray"}


def test_groups_of_kubernetes_are_closed_and_give_their_nodes_back() -> None:
    _, cluster = documents("kuberay-raycluster.yaml")
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"} and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert all(group["minReplicas"] == 0 for group in groups.values())
    assert groups["gpu-spot"]["priority"] > groups["gpu-on-demand"]["priority"]
    for group in (spec["headGroupSpec"], *groups.values()):
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_autoscaler_takes_spot_first_and_falls_back(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

    def launched(resources: dict[str, float], count: int, **available: float) -> dict[str, int]:
        """What Ray's own autoscaler (v2) would start for so many requests; `available`: 0 for what was just refused."""
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=kinds,
            max_num_nodes=config["max_workers"],
            resource_requests=[ResourceRequestByCount(request=ResourceRequestUtil.make(resources), count=count)],
            recoverable_resource_availabilities=available,
        )
        reply = ResourceDemandScheduler(None).schedule(request)
        return {launch.instance_type: launch.count for launch in reply.to_launch}

    (config,) = documents(name)
    for kind, cpus, gpus in (("cpu", 16, 0), ("gpu-spot", 192, 8), ("gpu-on-demand", 192, 8)):
        config["available_node_types"][kind]["resources"] = {"CPU": cpus, "GPU": gpus}  # AWS's are asked of AWS
    kinds = AutoscalingConfig(prepare_config(config), skip_content_hash=True).get_node_type_configs()
    assert launched({"GPU": 1, "CPU": 1}, 8) == {"gpu-spot": 1}
    assert launched({"GPU": 1, "CPU": 1}, 8, **{"gpu-spot": 0.0}) == {"gpu-on-demand": 1}
    assert launched({"GPU": 8}, 12) == {"gpu-spot": 8, "gpu-on-demand": 4}
    assert launched({"CPU": 1}, 4) == {"cpu": 1}
