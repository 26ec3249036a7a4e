"""What is exported has a closed set of names and tags, and the dashboard and the docs ask for nothing else."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from cai_ray.artifacts.parts import PartRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.progress import exported
from cai_ray.progress.exported import COUNTERS, GAUGES, Exported

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bray_(cai_ray|vllm)_(\w+)")
HISTOGRAM = ("_bucket", "_sum", "_count")


def names(text: str, of: str) -> set[str]:
    """The metrics of ours, or of vLLM's, that a text asks Prometheus for."""
    return {name for whose, name in NAME.findall(text) if whose == of}


def known() -> set[str]:
    exposed = {*(f"{name}_total" for name in COUNTERS), *GAUGES}
    return {name.removeprefix("cai_ray_") for name in exposed}


@pytest.mark.parametrize("page", ["clusters/grafana.json", "docs/clusters.md"])
def test_every_metric_that_is_named_is_exported_and_none_is_forgotten(page: str) -> None:
    assert names((ROOT / page).read_text(), "cai_ray") == known()


def test_every_metric_of_vllm_on_the_dashboard_is_one() -> None:
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "v1/metrics/loggers.py").read_text()
    theirs = set(re.findall(r'"vllm:(\w+)"', source))
    asked = names((ROOT / "clusters/grafana.json").read_text(), "vllm")
    assert asked and {name.removesuffix("_total") for name in asked} <= theirs


def test_the_dashboard_lies_on_a_grid_and_takes_its_run_from_a_list() -> None:
    dashboard = json.loads((ROOT / "clusters/grafana.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) and all(x in (0, 8, 16) for x, _ in places)
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "run"]
    ours = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"] if "ray_cai_ray_" in t["expr"]]
    assert all('run=~"$run"' in expression for expression in ours)


def test_a_part_is_counted_by_its_stage_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, dict[str, str]]] = []

    class Metric:
        def __init__(self, name: str) -> None:
            self.name = name

        def inc(self, num: float, tags: dict[str, str]) -> None:
            told.append((self.name, num, tags))

        set = inc

    monkeypatch.setattr(exported, "_metric", Metric)
    there = Exported.of(Storage("s3://key:secret@bucket/runs/my-run/revise?endpoint_override=127.0.0.1:9"), "revise")
    part = PartRecord(
        name="x",
        rows=None,
        dropped=None,
        dropped_by_reason={"timeout": 2},
        counters={"num_prompt_tokens": 30, "num_cached_tokens": 20, "num_output_tokens": 0, "engine_starts": 3},
    )
    there.count(part)
    there.restarted(0)
    there.restarted(2)
    there.in_flight(0)
    tags = {"run": "my-run", "stage": "revise"}
    assert told == [
        ("cai_ray_rows_dropped", 2, {**tags, "reason": "timeout"}),
        ("cai_ray_tokens", 30, {**tags, "kind": "prompt"}),
        ("cai_ray_tokens", 20, {**tags, "kind": "cached"}),
        ("cai_ray_engine_restarts", 2, tags),
        ("cai_ray_rows_in_flight", 0, tags),
    ]
