from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cai_ray import config as config_module
from cai_ray.config import (
    BatchConfig,
    Config,
    EndpointConfig,
    EngineConfig,
    Limits,
    ModelConfig,
    Placement,
    Price,
    ProofConfig,
    SamplingConfig,
    ScalingConfig,
    StageConfig,
    ThinkingConfig,
    Throughput,
    WorkersConfig,
)

ALL = [value for value in vars(config_module).values() if isinstance(value, type) and issubclass(value, Config)]


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_key_is_an_error(kind: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind.model_validate({"no_such_key": 1})


def test_configs_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SamplingConfig().temperature = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("kind", [k for k in ALL if k is not EndpointConfig])
def test_defaults_survive_json_and_pickle(kind: type[Config]) -> None:
    made = kind()
    assert kind.model_validate_json(made.model_dump_json()) == made
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (SamplingConfig, {"temperature": -0.1}),
        (SamplingConfig, {"temperature": float("nan")}),
        (SamplingConfig, {"top_p": 0.0}),
        (SamplingConfig, {"top_p": 1.1}),
        (SamplingConfig, {"top_k": -1}),
        (SamplingConfig, {"max_tokens": 0}),
        (ThinkingConfig, {"open": ""}),
        (EndpointConfig, {"base_url": "http://u", "model": "m", "max_retries": 21}),
        (EndpointConfig, {"base_url": "http://u", "model": "m", "timeout_s": 0}),
        (EndpointConfig, {"model": "m"}),
        (EndpointConfig, {"base_url": "127.0.0.1:8000", "model": "m"}),
        (EngineConfig, {"gpu_memory_utilization": 1.5}),
        (EngineConfig, {"row_time_limit_s": 0}),
        (ScalingConfig, {"min_engines": 0}),
        (ModelConfig, {"format": "completion"}),
        (ModelConfig, {"max_model_len": 4}),
        (StageConfig, {"max_dropped_fraction": 1.01}),
    ],
)
def test_out_of_range(kind: type[Config], bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(bad)
    [mistake] = caught.value.errors()
    assert mistake["loc"][-1] in {*bad, "base_url"}


def test_the_pool_is_ordered() -> None:
    with pytest.raises(ValidationError, match="max_engines=1 is below min_engines=2; raise it"):
        ScalingConfig(min_engines=2)
    assert ScalingConfig(min_engines=2, max_engines=2).max_engines == 2


def test_what_changes_speed_only_is_marked_so() -> None:
    """Fingerprints leave these out (G4), so nothing that changes results may be among them."""
    assert {kind for kind in ALL if issubclass(kind, Throughput)} == {
        Throughput,
        Placement,
        EngineConfig,
        ScalingConfig,
        WorkersConfig,
        ProofConfig,
        Limits,
        Price,
        BatchConfig,
    }


@pytest.mark.parametrize("kind", ALL)
def test_keys_are_named_never_held(kind: type[BaseModel]) -> None:
    assert not [name for name in kind.model_fields if "key" in name and not name.endswith("_env")]
