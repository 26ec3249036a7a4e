"""Loading for training, and a checkpoint turned into a model folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import LoraConfig, ModelConfig
from cai_ray.engines.models.export import export_model
from cai_ray.engines.models.reading import context_length
from cai_ray.engines.models.trainable import (
    load_causal_lm,
    load_tokenizer,
    load_trainable,
    local_path,
    peft_config,
)
from cai_ray.errors import ConfigError
from cai_ray.microworld.tokenizer import build_tokenizer
from tests.tiny_models import save_tiny
from tests.training_jobs import save_tiny_model


def save_tokenizer(folder: Path, pad_token: str | None) -> ModelConfig:
    tokenizer = build_tokenizer(100)
    tokenizer.pad_token = pad_token
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert local_path(ModelConfig(path="weights")).path == str(tmp_path / "weights")
    assert local_path(ModelConfig(path="some/hub-id")).path == "some/hub-id"


@pytest.mark.parametrize("pad_token", [None, "<|im_end|>"])
def test_padding_never_ends_a_turn(tmp_path: Path, pad_token: str | None) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, pad_token))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token == "<pad>"  # the one that the vocabulary has in reserve


def test_its_own_padding_token_stays(tmp_path: Path) -> None:
    assert load_tokenizer(save_tokenizer(tmp_path, "<pad>")).pad_token == "<pad>"


def test_the_recipes_template_is_saved_with_the_model(tmp_path: Path) -> None:
    model = save_tokenizer(tmp_path, "<pad>")
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    tokenizer = load_tokenizer(model.model_copy(update={"chat_template": str(template)}))
    assert tokenizer.chat_template == template.read_text()


def test_no_model_is_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ModelConfig(path=str(tmp_path))
    for load in (lambda: load_causal_lm(model, None), lambda: context_length(model)):
        with pytest.raises(ConfigError, match="no model at"):
            load()


@pytest.mark.slow
def test_weights_grow_with_the_tokenizer(tmp_path: Path) -> None:
    model = ModelConfig(path=str(save_tiny_model(tmp_path)))
    tokenizer = build_tokenizer(100)
    loaded = load_causal_lm(model, tokenizer)
    assert loaded.get_input_embeddings().num_embeddings == len(tokenizer)
    scorer = load_trainable(model, tokenizer)
    assert scorer.score.weight.shape == (1, 32)
    assert scorer.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.slow
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_adapters_are_merged(tmp_path: Path, task: Any) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    base = str(save_tiny_model(tmp_path / "base"))
    auto_class = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    options: dict[str, Any] = {} if task == "CAUSAL_LM" else {"num_labels": 1}
    torch.manual_seed(1)
    adapted = peft.get_peft_model(auto_class.from_pretrained(base, **options), peft_config(LoraConfig(rank=2), task))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    checkpoint, folder = tmp_path / "checkpoint-2", tmp_path / "model"
    adapted.save_pretrained(checkpoint)
    for leftover in ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "global_step2/states.pt"):
        (checkpoint / leftover).parent.mkdir(exist_ok=True)
        (checkpoint / leftover).write_bytes(b"x")
    folder.mkdir()
    (folder / "left-by-a-crash").touch()

    export_model(checkpoint, folder, "# card\n")
    assert sorted(os.listdir(folder)) == sorted(
        {"README.md", "config.json", "model.safetensors"} | ({"generation_config.json"} & set(os.listdir(folder)))
    )
    merged = auto_class.from_pretrained(folder)
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted.eval()(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("said", [{"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2, "do_sample": True}, {}])
def test_a_generation_config_that_was_read_can_be_saved(tmp_path: Path, said: dict[str, Any]) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(said))
    model = ModelConfig(path=str(folder))
    load_causal_lm(model, load_tokenizer(model)).save_pretrained(tmp_path / "trained")
    saved = json.loads((tmp_path / "trained/generation_config.json").read_text())
    assert {name: saved.get(name) for name in said} == said
