"""Devices, sizes and the arithmetic of time and memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.config import EngineConfig, LoraConfig, ModelConfig, WorkersConfig
from cai_ray.errors import ConfigError
from cai_ray.planning.devices import hardware
from cai_ray.planning.sizes import shape_of
from cai_ray.planning.stand_in_engine import Usages
from cai_ray.planning.work import (
    Memory,
    TrainingLoad,
    Work,
    decode_rate,
    engine_work,
    side_by_side,
    together,
    training_flops,
    training_memory,
)

LLAMA = shape_of(ModelConfig(path="meta-llama/Llama-3.1-8B-Instruct"))
LOAD = TrainingLoad(tokens=1e6, forward_tokens=0, steps=10, micro_tokens=4096)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mlabonne/Meta-Llama-3.1-8B-Instruct-abliterated", 8.03),
        ("huihui-ai/DeepSeek-R1-Distill-Llama-8B-abliterated", 8.03),
        ("Qwen/Qwen2.5-3B-Instruct", 3.09),
        ("huihui-ai/Qwen2.5-7B-Instruct-abliterated-v3", 7.62),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.25),
        ("IlyaGusev/gemma-2-9b-it-abliterated", 9.24),
    ],
)
def test_sizes_are_those_of_the_model_cards(name: str, billions: float) -> None:
    assert shape_of(ModelConfig(path=name)).params / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_local_model_is_measured_by_its_config(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 100, "tie_word_embeddings": True}))
    shape = shape_of(ModelConfig(path=str(tmp_path)))
    assert shape.params == 2 * (4 * 64 * 64 + 3 * 64 * 128) + 100 * 64


def test_the_micro_model_is_known_without_its_files(micro_model: Path) -> None:
    assert shape_of(ModelConfig()).params == shape_of(ModelConfig(path=str(micro_model))).params


def test_an_unknown_model_is_one_message() -> None:
    with pytest.raises(ConfigError, match=r"acme/giant.*local folder"):
        shape_of(ModelConfig(path="acme/giant"))


@pytest.mark.parametrize(
    ("gpus", "message"), [("8xH900", "H900.*kinds: H200"), ("zero of H100", "8xH200"), ("0xH100", "8xH200")]
)
def test_unknown_hardware_is_one_message(gpus: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hardware(gpus)


def test_assumptions_and_prices_can_be_changed() -> None:
    made = hardware("2*a100", price=1.25, assume=["train_mfu=0.5"])
    assert (made.num_devices, made.device.name, made.device.dollars_per_hour) == (2, "A100", 1.25)
    assert made.assumptions.train_mfu == 0.5
    with pytest.raises(ConfigError, match="train_mfu=2"):
        hardware("1xA100", assume=["train_mfu=2"])
    with pytest.raises(ConfigError, match="name=value"):
        hardware("1xA100", assume=["train_mfu"])


def test_the_anchor_is_met_and_scales() -> None:
    engine = EngineConfig()
    one = decode_rate(LLAMA, engine, hardware("1xH100"))
    assert one == pytest.approx(6400, rel=0.001)
    assert decode_rate(LLAMA, engine, hardware("1xH200")) / one == pytest.approx(4.8 / 3.35)
    small = shape_of(ModelConfig(path="Qwen/Qwen2.5-3B-Instruct"))
    assert decode_rate(small, engine, hardware("1xH100")) / one == pytest.approx(LLAMA.params / small.params)
    assert decode_rate(shape_of(ModelConfig()), engine, hardware("1xH100")) == 40_000


def test_more_engines_take_less_time_and_never_more_gpus_than_there_are() -> None:
    used = Usages(1e5, 1e8, 5e7, 5e7, 3000)
    works = [engine_work(used, LLAMA, EngineConfig(), most, hardware("8xH100")) for most in (1, 4, 16)]
    assert works[0].seconds > works[1].seconds > works[2].seconds
    assert [work.num_devices for work in works] == [1, 4, 8]
    wide = engine_work(used, LLAMA, EngineConfig(tensor_parallel_size=2), 16, hardware("8xH100"))
    assert wide.num_devices == 8


def test_side_by_side_takes_the_longest_on_gpus_and_the_sum_on_a_cpu() -> None:
    works = [Work(100.0, 1, Memory(10, 80, "small")), Work(60.0, 2, Memory(70, 80, "large"))]
    on_gpus = side_by_side(works, hardware("8xH100"))
    assert (on_gpus.seconds, on_gpus.num_devices) == (100, 3)
    assert on_gpus.memory is not None and on_gpus.memory.what == "large"
    assert side_by_side(works, hardware(None)) == together(works)
    assert side_by_side([], hardware("8xH100")) == Work(0, 0)


def test_training_states_are_sixteen_bytes_a_parameter_spread_by_the_zero_stage() -> None:
    def gib(stage: int, **more: object) -> float:
        workers = WorkersConfig.model_validate({"num_workers": 8, "zero_stage": stage, **more})
        return training_memory(LOAD, LLAMA, None, workers, hardware("8xH100")).needed_gib

    states = LLAMA.params / 2**30
    whole, optimiser, gradients, everything = (gib(stage) for stage in range(4))
    assert whole - optimiser == pytest.approx(12 * states * 7 / 8)
    assert optimiser - gradients == pytest.approx(2 * states * 7 / 8)
    assert everything < gradients
    assert gradients - gib(2, offload_optimizer=True) == pytest.approx(12 * states / 8)
    assert gib(2, gradient_checkpointing=True) < gradients
    workers = WorkersConfig(num_workers=8, zero_stage=2)
    assert training_memory(LOAD, LLAMA, LoraConfig(), workers, hardware("8xH100")).needed_gib < gradients


def test_an_eight_billion_model_does_not_train_whole_on_one_small_gpu() -> None:
    assert not training_memory(LOAD, LLAMA, None, WorkersConfig(), hardware("1xA10G")).fits
    assert training_memory(LOAD, LLAMA, None, WorkersConfig(num_workers=8, zero_stage=3), hardware("8xH200")).fits


def test_training_counts_six_flops_per_parameter_and_token() -> None:
    assert training_flops(LOAD, LLAMA, None, WorkersConfig()) == 6 * LLAMA.params * 1e6
    assert training_flops(LOAD, LLAMA, LoraConfig(), WorkersConfig()) == 4 * LLAMA.params * 1e6
    assert training_flops(LOAD, LLAMA, None, WorkersConfig(gradient_checkpointing=True)) == 8 * LLAMA.params * 1e6
