"""Set-ups that cannot work end in seconds, before any engine, with the mend; an adapter is a whole model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.cli import app
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.backends.vllm_engine import check_memory
from cai_ray.engines.models.setup import settings, weights
from cai_ray.engines.models.setup.check import check_lora, check_setup
from cai_ray.errors import ConfigError
from cai_ray.microworld.shipped import WEIGHTS
from tests.runs import saying, write_jsonl, write_recipe

CASE = Path(__file__).parents[3] / "shared/field/27"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the micro model, to break."""
    return Path(shutil.copytree(WEIGHTS, tmp_path / "model"))


def refused(folder: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as told:
        check_setup("models.policy", ModelConfig(path=str(folder), **settings))
    return str(told.value)


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_whole_model_passes(model: Path) -> None:
    check_setup("models.policy", ModelConfig(path=str(model), max_model_len=4096))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": {"extra": {"quantisation": "awq"}}}, "did you mean 'quantization'?"),
        ({"engine": {"extra": {"max_num_seq": 3}}}, "did you mean 'max_num_seqs'?"),
        ({"engine": {"extra": {"quantization": "awk"}}}, "did you mean 'awq'?"),
        ({"engine": {"tensor_parallel_size": 3}}, "does not divide the model's 4 attention heads; use one of 1, 2, 4"),
        ({"max_model_len": 8192}, "more than the 4096 tokens"),
    ],
    ids=str,
)
def test_settings_that_vllm_would_refuse(given: dict[str, Any], told: str, model: Path) -> None:
    assert told in refused(model, **given)


def test_a_longer_context_is_allowed_where_vllm_allows_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(model / "config.json", rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    check_setup("models.policy", ModelConfig(path=str(model), max_model_len=16384))
    assert "more than the 16384 tokens" in refused(model, max_model_len=16385)
    monkeypatch.setenv(settings.LONGER_ALLOWED, "1")
    check_setup("models.policy", ModelConfig(path=str(model), max_model_len=20000))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def page(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!doctype html><p>sign in")


def shard_gone(folder: Path) -> None:
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))


def wider(folder: Path) -> None:
    rewrite(folder / "config.json", hidden_size=256)


def more_words(folder: Path) -> None:
    rewrite(folder / "config.json", vocab_size=2000)


def fewer_layers(folder: Path) -> None:
    rewrite(folder / "config.json", num_hidden_layers=2)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (without_weights, "there are no weights in"),
        (cut_short, "cut short or damaged"),
        (pointer, "git lfs pull"),
        (page, "is a web page"),
        (shard_gone, "lacks 1 of its weight files, model-00001-of-00002.safetensors"),
        (wider, "weights and config are of different models"),
        (more_words, "has the shape [1075, 128], and config.json there makes it [2000, 128]"),
        (fewer_layers, "4 layers, and config.json there says num_hidden_layers=2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_is_no_whole_model(break_it: Callable[[Path], None], told: str, model: Path) -> None:
    break_it(model)
    assert told in refused(model)


def test_packed_weights_and_rewritten_configs_are_left_to_the_engine(model: Path) -> None:
    wider(model)
    check_setup("models.policy", ModelConfig(path=str(model), engine={"extra": {"hf_overrides": {"hidden_size": 128}}}))
    rewrite(model / "config.json", quantization_config={"quant_method": "awq"})
    check_setup("models.policy", ModelConfig(path=str(model)))


def test_adapters_on_layers_that_are_not_there(model: Path) -> None:
    check_lora("sft", ("q_proj", "mlp.up_proj"), "models.policy", ModelConfig(path=str(model)))
    with pytest.raises(ConfigError, match=r"sft\.lora\.target_modules: no layer .* 'query_proj'; it has .*q_proj"):
        check_lora("sft", ("query_proj",), "models.policy", ModelConfig(path=str(model)))


def test_a_cache_larger_than_the_machine() -> None:
    check_memory(EngineConfig())
    with pytest.raises(ConfigError, match=r"engine\.kv_cache_gib=1e\+06 is more than the \d+ GiB of memory"):
        check_memory(EngineConfig(kv_cache_gib=1e6))


def adapter(folder: Path, **said: Any) -> Path:
    """The folder of an adapter with a file of weights that nobody opens."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "model", "r": 8, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config | said))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_an_adapter_is_checked_on_its_base(model: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter")
    check_setup("models.policy", ModelConfig(path=str(path)))
    assert "more than the 4096 tokens" in refused(path, max_model_len=9000)
    cut_short(model)
    assert "cut short" in refused(path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"base_model_name_or_path": "gone"}, "is an adapter of 'gone', and that model is not there"),
        ({"base_model_name_or_path": "/no/such/base"}, "looked for /no/such/base)"),
        ({"base_model_name_or_path": None}, "does not say of which model"),
        ({"peft_type": "PROMPT_TUNING"}, "cannot be merged"),
    ],
    ids=str,
)
def test_an_adapter_that_cannot_be_loaded(
    said: dict[str, Any], told: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert told in refused(adapter(tmp_path / "adapter", **said))


def test_an_adapter_without_weights_or_of_a_quantised_base(model: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter")
    rewrite(model / "config.json", quantization_config={"quant_method": "awq"})
    assert "whose weights are quantised" in refused(path)
    (path / "adapter_model.safetensors").unlink()
    assert "is an adapter without weights" in refused(path)


def command(recipe: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["run", str(recipe), *arguments], env={"COLUMNS": "200", "HF_HUB_OFFLINE": "1"})
    return done.exit_code, " ".join(done.output.split())


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("break_it", "changes", "told"),
    [
        (without_weights, {}, "there are no weights in"),
        (no_tokenizer, {}, "no tokenizer at"),
        (None, {"models": {"policy": {"max_model_len": 9000}}}, "models.policy.max_model_len=9000 is more than"),
        (None, {"models": {"policy": {"dtype": "float31"}}}, "models.policy.dtype"),
        (None, {"models": {"policy": {"engine": {"extra": {"lora": 1}}}}}, "models.policy.engine.extra: 'lora'"),
        (None, {"sft": {"lora": {"r": 4}}}, "sft.lora.r: unknown key"),
        (None, {"sft": {"lora": {"rank": 0}}}, "sft.lora.rank"),
        (None, {"sft": {"lora": {"target_modules": ["qproj"]}}}, "sft.lora.target_modules: no layer"),
        (None, {"sft": {"optim": {"lr": 1}}}, "sft.optim.lr: unknown key"),
        (
            None,
            {
                "pairs": {"model": "policy"},
                "labels": {},
                "dpo": {"model": "policy", "lora": {"target_modules": ["qproj"]}},
            },
            "dpo.lora.target_modules",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:40],
)
def test_the_command_ends_with_2_and_the_mend(
    break_it: Callable[[Path], None] | None, changes: dict[str, Any], told: str, model: Path, tmp_path: Path
) -> None:
    if break_it is not None:
        break_it(model)
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [saying("How do I fold a napkin?")])
    code, said = command(write_recipe(tmp_path, model, prompts, **changes))
    assert code == 2 and told in said and "Traceback" not in said, said
    assert not (tmp_path / "run/load_prompts").exists()


@pytest.mark.skipif(not CASE.is_dir(), reason="the cases' inputs are not here")
def test_the_case_as_it_was_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(CASE, tmp_path / "case"))
    code, said = command(Path("r.yaml"))
    assert code == 2 and "is an adapter without weights" in said, said


@pytest.mark.slow
def test_an_adapter_is_merged_on_its_base_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from cai_ray.config import LoraConfig
    from cai_ray.engines.models.files import localised, weights_folder
    from cai_ray.engines.models.trainable import load_causal_lm, load_tokenizer, peft_config

    monkeypatch.setenv("CAI_RAY_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    adapted: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), peft_config(LoraConfig(rank=2)))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    rewrite(tmp_path / "adapter/adapter_config.json", base_model_name_or_path="model")
    config = ModelConfig(path=str(tmp_path / "adapter"))
    check_setup("models.policy", config)

    ids = torch.arange(3, 40)[None]
    loaded = load_causal_lm(config, load_tokenizer(config))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapted.eval()(ids).logits, rtol=1e-3, atol=1e-3)
    folder = Path(localised(config).path)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in folder.iterdir()
    }
    stamp = folder.stat().st_mtime_ns
    assert weights_folder(config.path) == str(folder) and folder.stat().st_mtime_ns == stamp
