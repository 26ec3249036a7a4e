"""The facts of a whole cluster, or of this machine where no cluster is named."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cai_ray.artifacts.storage import TEMPORARY_PREFIX, Storage
from cai_ray.config import ModelConfig, is_micro_model
from cai_ray.doctor.facts import GIB, Facts, Gpu, Node
from cai_ray.doctor.node import DRIVER, Asked, Examiner
from cai_ray.engines.cluster import ClusterConfig, address_of, connected
from cai_ray.lookup import location
from cai_ray.pipeline.recipe import Recipe
from cai_ray.planning.devices import DEVICES, Hardware
from cai_ray.planning.plan import plan

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
EXAMINE_LIMIT_S = 180.0


def examine(recipe: Recipe | None, cluster: ClusterConfig) -> Facts:
    """Ask every node. Raises ConfigError, ClusterAway for a cluster that cannot be joined."""
    if address_of(cluster) is None:
        with _probes(recipe) as (folder, unseen):
            node = Examiner().examine(_asked(recipe, folder), "this machine")
            return _facts(recipe, [node], unseen([node]))
    import ray

    with connected(cluster), _probes(recipe) as (folder, unseen):
        alive = [node for node in ray.nodes() if node["Alive"]]
        examiners = [_on(node["NodeID"]) for node in alive]
        asked = _asked(recipe, folder)
        answers = [
            examiner.examine.remote(
                asked, node["NodeManagerAddress"], (node["ObjectStoreSocketName"], node["RayletSocketName"])
            )
            for examiner, node in zip(examiners, alive, strict=True)
        ]
        nodes = []
        for node, examiner, said in zip(alive, examiners, ray.get(answers, timeout=EXAMINE_LIMIT_S), strict=True):
            offset, doubt = _clock(examiner)
            store = int(node["Resources"].get("object_store_memory", 0))
            nodes.append(said.model_copy(update={"object_store": store, "clock_offset": offset, "clock_doubt": doubt}))
        facts = _facts(recipe, nodes, unseen(nodes))
        head = next((e for e, n in zip(examiners, alive, strict=True) if _is_head(n)), None)
        url = _dashboard_address()
        if head is None or not url:
            return facts
        dashboard = ray.get(head.dashboard.remote(url), timeout=EXAMINE_LIMIT_S)
        return facts.model_copy(update={"dashboard": dashboard})


def _on(node_id: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0)(Examiner).options(scheduling_strategy=there).remote()


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]


def _dashboard_address() -> str | None:
    from ray._private.worker import get_dashboard_url

    url: str | None = get_dashboard_url()
    return url.rpartition("://")[2].rstrip("/") if url else None


def _clock(examiner: Any) -> tuple[float, float]:
    """(how far the node's clock is ahead of this one, by how much that may be wrong), s."""
    import ray

    before = time.time()
    there = ray.get(examiner.now.remote(), timeout=EXAMINE_LIMIT_S)
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2


@contextmanager
def _probes(recipe: Recipe | None) -> Iterator[tuple[Storage | None, Any]]:
    """A folder for probes beside the run, gone afterwards; and who of the nodes left none that is seen here."""
    if recipe is None:
        yield None, lambda nodes: ()
        return
    folder = Storage(recipe.output) / f"{TEMPORARY_PREFIX}doctor-{uuid.uuid4().hex}"
    folder.make()
    folder.write(DRIVER, b"")

    def unseen(nodes: list[Node]) -> tuple[str, ...]:
        seen = set(folder.names())
        return tuple(node.host for node in nodes if node.storage_error is None and node.address not in seen)

    try:
        yield folder, unseen
    finally:
        folder.delete_folder()


def _asked(recipe: Recipe | None, folder: Storage | None) -> Asked:
    if recipe is None or folder is None:
        return Asked()
    models = list(recipe.models.values())
    keys = {model.endpoint.api_key_env for model in models if model.endpoint and model.endpoint.api_key_env}
    hub = {hub_id for model in models if (hub_id := _hub_id(model))}
    return Asked(folder=folder.location, hub=tuple(sorted(hub)), keys=tuple(sorted(keys)))


def _hub_id(model: ModelConfig) -> str | None:
    where = location(model.path)
    if model.endpoint is not None or is_micro_model(where) or where != model.path:
        return None
    return where if HUB_ID.fullmatch(where) else None


def _facts(recipe: Recipe | None, nodes: list[Node], unseen: tuple[str, ...]) -> Facts:
    return Facts(
        nodes=tuple(nodes),
        output=None if recipe is None else Storage(recipe.output).shown,
        unseen=unseen,
        does_not_fit=does_not_fit(recipe, [gpu for node in nodes for gpu in node.gpus]),
    )


def does_not_fit(recipe: Recipe | None, gpus: list[Gpu]) -> tuple[str, ...] | None:
    """What `cai-ray plan` says of these GPUs, taken to be like the smallest; None without a recipe or GPUs."""
    if recipe is None or not gpus:
        return None
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    like = next((device for name, device in DEVICES.items() if name in smallest.name), DEVICES["A10G"])
    device = like.model_copy(update={"memory_gib": smallest.memory / GIB})
    return tuple(plan(recipe, Hardware(device=device, num_devices=len(gpus))).problems)
