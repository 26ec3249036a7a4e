"""Who runs where, by logical GPUs on nodes that have none: labels, fallback, and GPUs that are still to come."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.config import WorkersConfig
from cai_ray.engines.groups import check_packed
from cai_ray.errors import ConfigError
from tests import faults
from tests.runs import requests, run, wait_for, write_jsonl, write_recipe

pytestmark = pytest.mark.slow
NUM_PROMPTS = 24
CASES = ("spot_first", "fallback", "to_come", "training", "over_nodes", "straddling")


@pytest.mark.parametrize("case", CASES)
def test_engines_and_workers_are_where_the_labels_say(case: str, micro_model: Path, tmp_path: Path) -> None:
    """Each in a process of its own, because this one may be connected to another Ray."""
    command = [sys.executable, __file__, case, str(micro_model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def where(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """A script that answers where it runs: the market of its node, the GPUs reserved for it, the engine."""
    import ray

    context = ray.get_runtime_context()
    found = next(node["Labels"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    num_gpus = len(context.get_accelerator_ids().get("GPU", []))
    return f"{found.get('market', 'head')} {num_gpus} {context.get_actor_id()}"


def gpu_node(cluster: Any, market: str, num_gpus: int = 8) -> Any:
    return cluster.add_node(num_cpus=4, num_gpus=num_gpus, labels={"market": market}, object_store_memory=2**27)


def revised(folder: Path, model: Path, address: str, **changes: Any) -> list[tuple[str, str, str]]:
    """(market, GPUs, engine) of every answer of two engines with four GPUs each."""
    prompts = write_jsonl(folder / "prompts.jsonl", requests(NUM_PROMPTS))
    scaling = {"min_engines": 2, "max_engines": 2, "rows_per_task": 2, "fallback": [{"market": "on-demand"}]}
    recipe = write_recipe(
        folder,
        model,
        prompts,
        cluster={"address": address, **changes},
        models={"policy": {"engine": {"tensor_parallel_size": 4, "rows_in_flight": 2}}},
        revise={"num_revisions": 0, "scaling": {**scaling, "labels": {"market": "spot"}}},
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults.use_script(monkeypatch, where)
        rows = list(run(recipe).rows())
    assert len(rows) == NUM_PROMPTS
    return [tuple(row["initial_response"].split()) for row in rows]


def spot_first(cluster: Any, folder: Path, model: Path) -> None:
    gpu_node(cluster, "on-demand")
    gpu_node(cluster, "spot")
    found = revised(folder, model, cluster.address)
    assert {(market, gpus) for market, gpus, _ in found} == {("spot", "4")}
    assert len({engine for _, _, engine in found}) == 2, "both of one node's eight GPUs"


def fallback(cluster: Any, folder: Path, model: Path) -> None:
    gpu_node(cluster, "on-demand")
    assert {(market, gpus) for market, gpus, _ in revised(folder, model, cluster.address)} == {("on-demand", "4")}


def to_come(cluster: Any, folder: Path, model: Path) -> None:
    """No GPU is there, eight are promised: nothing falls back to CPU, all of it waits for the node."""
    started: list[float] = []

    def start_a_node() -> None:
        wait_for((folder / "run" / "revise" / "plan.json").exists, 120, "the stage")
        time.sleep(10)
        started.append(time.time())
        gpu_node(cluster, "spot")

    threading.Thread(target=start_a_node, daemon=True).start()
    found = revised(folder, model, cluster.address, num_gpus=8)
    assert {(market, gpus) for market, gpus, _ in found} == {("spot", "4")}
    records = [file.stat().st_mtime for file in (folder / "run" / "revise").glob("part-*.parquet")]
    assert started and min(records) > started[0]


def wide(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """`where`, and how many GPUs of this engine's placement group are on each node."""
    from ray.util import get_current_placement_group, placement_group_table

    check_packed(2)
    on_node = placement_group_table(get_current_placement_group())["bundles_to_node_id"].values()
    return f"{where(row_id, messages, seed)} {'+'.join(str(num) for num in sorted(Counter(on_node).values()))}"


def over_two_nodes(folder: Path, model: Path, address: str, num_gpus: int) -> list[str]:
    """Answers of an engine of two parts of layers with two GPUs each."""
    engine = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "rows_in_flight": 2}
    recipe = write_recipe(
        folder,
        model,
        write_jsonl(folder / "prompts.jsonl", requests(NUM_PROMPTS)),
        cluster={"address": address, "num_gpus": num_gpus},
        models={"policy": {"engine": engine}},
        revise={"num_revisions": 0, "scaling": {"labels": {"market": "spot"}, "rows_per_task": 2}},
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults.use_script(monkeypatch, wide)
        return [row["initial_response"] for row in run(recipe).rows()]


def over_nodes(cluster: Any, folder: Path, model: Path) -> None:
    """An engine of four GPUs on two nodes of two, both waited for; its group is gone after the stage."""
    import ray

    from cai_ray.engines.cluster import ClusterConfig, connected

    gpu_node(cluster, "on-demand", num_gpus=8)
    gpu_node(cluster, "spot", num_gpus=2)
    threading.Timer(15, gpu_node, (cluster, "spot", 2)).start()
    with connected(ClusterConfig(address=cluster.address)):
        answers = over_two_nodes(folder, model, cluster.address, 8)
        assert len(answers) == NUM_PROMPTS
        assert {(answer.split()[0], answer.split()[-1]) for answer in answers} == {("spot", "2+2")}
        wait_for(lambda: ray.available_resources().get("GPU") == 12, 20, "all GPUs are given back")


def straddling(cluster: Any, folder: Path, model: Path) -> None:
    """Nodes of three and one: two ranks of a part would talk over the network."""
    gpu_node(cluster, "spot", num_gpus=3)
    gpu_node(cluster, "spot", num_gpus=1)
    with pytest.raises(ConfigError, match="1 \\+ 3 on 2 nodes"):
        over_two_nodes(folder, model, cluster.address, 4)


def training(cluster: Any, folder: Path, model: Path) -> None:
    """Ray Train: on the first selector whose nodes hold all workers, and waiting for GPUs that are to come."""
    import ray

    from cai_ray.engines.cluster import ClusterConfig, connected, num_gpus
    from cai_ray.engines.training.ray_train import check_room, torch_trainer

    with connected(ClusterConfig(address=cluster.address, num_gpus=8)), pytest.MonkeyPatch.context() as monkeypatch:
        from ray.train.torch import TorchConfig

        monkeypatch.setattr("ray.train.torch.TorchConfig", lambda backend: TorchConfig(backend="gloo"))
        assert num_gpus() == 8 and not ray.cluster_resources().get("GPU")
        choice = {"labels": {"market": "spot"}, "fallback": [{"market": "on-demand"}]}
        workers = WorkersConfig.model_validate({"num_workers": 2, **choice})
        check_room(workers, use_gpu=True, can_grow=True)

        def fit(name: str) -> set[str]:
            config = {"folder": str(folder / name)}
            Path(config["folder"]).mkdir()
            torch_trainer(note, config, name=name, workers=workers, use_gpu=True, scratch=str(folder)).fit()
            told = [Path(config["folder"], str(rank)) for rank in range(workers.num_workers)]
            wait_for(lambda: all(file.exists() and file.read_text() for file in told), 20, "what each worker notes")
            return {file.read_text() for file in told}

        threading.Timer(8, gpu_node, (cluster, "spot")).start()
        began = time.monotonic()
        found = fit("waits")
        assert found == {"spot 1"} and time.monotonic() - began > 8, (found, time.monotonic() - began)
        [spot] = [node for node in cluster.worker_nodes if node is not cluster.head_node]
        cluster.remove_node(spot)
        gpu_node(cluster, "on-demand")
        assert fit("falls-back") == {"on-demand 1"}


def note(config: dict[str, Any]) -> None:
    import ray.train

    number = ray.train.get_context().get_world_rank()
    Path(config["folder"], str(number)).write_text(" ".join(where("", [], 0).split()[:2]))


def main(case: str, model: Path, folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cases = {case.__name__: case for case in (spot_first, fallback, to_come, training, over_nodes, straddling)}
    head = {"num_cpus": 4, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)  # nodes come from threads, too
    try:
        cases[case](cluster, folder, model)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
