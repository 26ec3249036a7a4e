"""Engines over several nodes: who may have them. Where they lie: tests/cluster/test_scheduling.py."""

from __future__ import annotations

import pytest

from cai_ray.config import EngineConfig
from cai_ray.engines.groups import check_one_node, check_packed
from cai_ray.errors import ConfigError


def test_an_engine_takes_the_gpus_of_all_its_parts() -> None:
    assert EngineConfig(tensor_parallel_size=4, pipeline_parallel_size=2).num_gpus == 8


def test_ppos_and_served_engines_stay_within_a_node() -> None:
    check_one_node(EngineConfig(tensor_parallel_size=8), "a served model is")
    with pytest.raises(ConfigError, match="pipeline_parallel_size=2: a served model is within a node; set it to 1"):
        check_one_node(EngineConfig(pipeline_parallel_size=2), "a served model is")


def test_without_a_group_nothing_can_straddle() -> None:
    check_packed(8)
