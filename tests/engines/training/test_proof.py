"""The proof on tiny models, with transformers' plain attention for the engine; real engines are in tests/field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import LoraConfig, ModelConfig, ProofConfig
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.models.trainable import load_causal_lm, load_tokenizer, load_trainable, peft_config
from cai_ray.engines.training.arguments import Device
from cai_ray.engines.training.proof import Proof, judged, output_layer, proof_callback, prove
from cai_ray.errors import ConfigError
from tests.architectures import ARCHITECTURES, save_architecture

CPU = Device(is_gpu=False, has_bf16=False)
IDS = tuple(range(5, 65))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(path=str(save_architecture(tmp_path_factory.mktemp("gemma2"), "Gemma2Config")))


def sampled(model: ModelConfig) -> Sampled:
    """What an engine would say of IDS: the stored weights under plain attention."""
    import torch
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(model.path, attn_implementation="eager").eval()
    with torch.no_grad():
        logprobs = plain(torch.tensor([IDS])).logits[0, 19:-1].float().log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(IDS[20:])[:, None])[:, 0]
    return Sampled(IDS[:20], IDS[20:], tuple(chosen.tolist()))


def proof(model: ModelConfig, stage: str = "revise") -> Proof:
    return Proof("sft", ProofConfig(), model, (sampled(model),), stage)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("load", [load_causal_lm, load_trainable])
def test_every_architecture_is_loaded_as_it_samples(tmp_path: Path, name: str, load: Any) -> None:
    model = ModelConfig(path=str(save_architecture(tmp_path, name)))
    learner = load(model, load_tokenizer(model))
    assert "agrees with the engine that sampled them in revise" in prove(proof(model), learner, learner, CPU)


@pytest.mark.parametrize("load", [load_causal_lm, load_trainable])
@pytest.mark.parametrize("stage", ["revise", ""])
def test_an_attention_without_its_soft_cap_is_refused(gemma: ModelConfig, load: Any, stage: str) -> None:
    learner = load(gemma, load_tokenizer(gemma))
    assert learner.config._attn_implementation == "eager"
    learner.set_attn_implementation("sdpa")
    with pytest.raises(ConfigError) as refused:
        prove(proof(gemma, stage), learner, learner, CPU)
    told = str(refused.value)
    assert "nats per token apart, more than 0.001" in told and "attention 'sdpa'" in told
    assert "sft: {proof: off}" in told
    assert learner.config._attn_implementation == "sdpa"  # as it was
    assert learner.training is False or load is load_causal_lm


def test_plain_attention_is_not_compared_with_itself(gemma: ModelConfig) -> None:
    learner = load_causal_lm(gemma, load_tokenizer(gemma))
    assert prove(proof(gemma, stage=""), learner, learner, CPU) == ""


def test_new_adapters_change_nothing(tmp_path: Path) -> None:
    import peft

    model = ModelConfig(path=str(save_architecture(tmp_path, "Qwen2Config")))
    learner = peft.get_peft_model(load_causal_lm(model, load_tokenizer(model)), peft_config(LoraConfig()))
    assert "agrees" in prove(proof(model), learner, learner, CPU)
    assert "plain (eager) attention" in prove(proof(model, stage=""), learner, learner, CPU)


def test_rows_for_padding_are_no_tokens_to_an_engine(tmp_path: Path) -> None:
    model = ModelConfig(path=str(save_architecture(tmp_path, "LlamaConfig")))
    learner = load_causal_lm(model, load_tokenizer(model))
    learner.resize_token_embeddings(300)
    assert "agrees" in prove(proof(model), learner, learner, CPU)


def test_the_output_layer_is_read_alone(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for name in ("LlamaConfig", "Gemma2Config"):  # of its own, and tied to the embeddings
        folder = save_architecture(tmp_path / name, name)
        found = output_layer(ModelConfig(path=str(folder)))
        stored: Any = AutoModelForCausalLM.from_pretrained(folder)
        assert found is not None and found[1] is None
        assert torch.equal(found[0], stored.get_output_embeddings().weight)
    (folder / "model.safetensors").unlink()
    assert output_layer(ModelConfig(path=str(folder))) is None


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_what_is_no_number_agrees_with_nothing(number: float) -> None:
    with pytest.raises(ConfigError):
        judged("dpo", [[-1.0, number]], [[-1.0, -1.0]], 100.0, "a learner", "an engine")


def test_the_mean_decides_and_the_worst_is_told() -> None:
    told = judged("dpo", [[-1.0, -1.0], [-1.0, -1.6]], [[-1.0, -1.0], [-1.0, -1.0]], 0.2, "a learner", "an engine")
    assert told == "the learner agrees with an engine: 0.15 nats per token apart on 4 tokens of 2 answers"
    with pytest.raises(ConfigError, match=r"token 1 of answer 1: -1\.6000 and -1\.0000"):
        judged("dpo", [[-1.0, -1.0], [-1.0, -1.6]], [[-1.0, -1.0], [-1.0, -1.0]], 0.1, "a learner", "an engine")


def test_it_is_done_before_the_first_step_alone(gemma: ModelConfig) -> None:
    from types import SimpleNamespace

    learner = load_causal_lm(gemma, load_tokenizer(gemma))
    learner.set_attn_implementation("sdpa")
    trainer: Any = SimpleNamespace(model=learner, model_wrapped=learner)
    callback = proof_callback(proof(gemma), trainer, CPU, None)
    callback.on_train_begin(None, SimpleNamespace(global_step=7), None)
    with pytest.raises(ConfigError):
        callback.on_train_begin(None, SimpleNamespace(global_step=0), None)
