"""What a model is, beside its settings. Edits keep the size."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cai_ray.config import EndpointConfig, EngineConfig, ModelConfig
from cai_ray.engines.models.identity import engine_contents, model_contents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "checkpoint-5").mkdir()
    for name in (
        *("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "1_Pooling/config.json"),
        *("README.md", ".gitattributes", "trainer_state.json", "checkpoint-5/config.json"),
    ):
        (made / name).write_text('{"a": 1}')
    (made / "model.safetensors").write_bytes(bytes(1000))
    (made / "optimizer.pt").write_bytes(bytes(10))
    return made


HUB = {"path": "org/name", "revision": "a" * 40}  # a commit: nobody is asked for it


def found(folder: Path, **changes: object) -> dict[str, str]:
    return model_contents("policy", ModelConfig(path=str(folder)).model_copy(update=changes))


def edit(path: Path) -> None:
    """Another content of the same size and time."""
    stamp = path.stat().st_mtime_ns
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(stamp, stamp))


READ = {
    *("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"),
    *("1_Pooling/config.json", "model.safetensors"),
}


def test_the_files_that_make_a_model_are_known_and_no_others(folder: Path) -> None:
    assert set(found(folder)) == {f"{name} (model policy)" for name in READ}


@pytest.mark.parametrize("name", sorted(READ))
def test_an_edit_of_the_same_size_is_another_model(folder: Path, name: str) -> None:
    before = found(folder)
    edit(folder / name)
    assert {key for key, value in found(folder).items() if before[key] != value} == {f"{name} (model policy)"}


def test_the_same_folder_elsewhere_is_the_same_model(folder: Path) -> None:
    before = found(folder)
    assert found(folder.rename(folder.with_name("moved"))) == before


def test_a_tokenizer_counts_without_weights_that_lie_beside_it(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ a }}")
    both = model_contents("m", ModelConfig(**HUB, tokenizer=str(folder), chat_template=str(template)))
    assert "t.jinja (chat template of m)" in both
    assert "tokenizer.json (tokenizer of m)" in both
    assert "model.safetensors (tokenizer of m)" not in both
    edit(folder / "tokenizer.json")
    assert model_contents("m", ModelConfig(**HUB, tokenizer=str(folder))) != both


def test_adapters_are_known_with_the_model_below_them(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"12")
    before = found(adapter)
    assert {"adapter_model.safetensors (model policy)", "config.json (base of the adapter policy)"} <= set(before)
    edit(folder / "model.safetensors")
    assert found(adapter) != before


def test_a_uri_is_the_folder_that_it_names(folder: Path) -> None:
    assert model_contents("policy", ModelConfig(path=folder.as_uri())) == found(folder)


def test_an_endpoint_is_its_settings(folder: Path) -> None:
    assert found(folder, endpoint=EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m")) == {}


def test_engine_arguments_count_unless_they_are_known_to_change_speed_only() -> None:
    extra = {"quantization": "fp8", "hf_overrides": {"rope_scaling": None}, "swap": 1, "enable_chunked_prefill": True}
    assert engine_contents("m", EngineConfig(extra=extra)) == {
        "engine.extra.quantization (model m)": '"fp8"',
        "engine.extra.hf_overrides (model m)": '{"rope_scaling": null}',
        "engine.extra.swap (model m)": "1",
    }


@pytest.mark.slow
def test_what_is_known_to_change_speed_only_is_known_to_vllm() -> None:
    pytest.importorskip("vllm")
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    from cai_ray.engines.models.identity import SPEED_ONLY

    assert {field.name for field in fields(AsyncEngineArgs)} >= SPEED_ONLY
