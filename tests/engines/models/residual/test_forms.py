"""The same direction taken out by hooks and by weights, on random models of every architecture in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cai_ray.algorithms.directions import unit
from cai_ray.config import ModelConfig
from cai_ray.engines.models.residual.intervention import (
    INTERVENTION,
    Intervention,
    attach,
    read_intervention,
    write_intervention,
)
from cai_ray.engines.models.residual.stream import gain_of, stream_of
from cai_ray.engines.models.residual.weight_form import take_out
from cai_ray.engines.models.trainable import load_causal_lm, load_tokenizer
from cai_ray.errors import ConfigError
from tests.architectures import save_architecture

pytestmark = pytest.mark.slow
DIRECT = ["LlamaConfig", "Qwen2Config", "Qwen3Config", "MistralConfig"]
NORMED = ["Gemma2Config", "Gemma3TextConfig"]
R = unit(np.random.default_rng(1).normal(size=64))
PROJECT = Intervention("project", R.astype(np.float32))


def loaded(folder: Path, dtype: Any = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or torch.float32, attn_implementation="eager"
    ).eval()


def scrambled(folder: Path, name: str) -> Any:
    """With gains that are not all alike, as those of trained models."""
    import torch

    model = loaded(save_architecture(folder, name))
    torch.manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def logits(model: Any) -> Any:
    import torch

    ids = torch.arange(5, 5 + 48).reshape(2, 24)
    with torch.no_grad():
        return model(input_ids=ids).logits


@contextmanager
def writes(model: Any) -> Iterator[list[Any]]:
    """What is written to the residual stream meanwhile; to be entered after what is to be seen is attached."""
    seen: list[Any] = []
    stream = stream_of(model)
    modules = [stream.embeddings, *(writer for layer in stream.layers if layer for writer in layer.writers)]
    handles = [module.register_forward_hook(lambda m, given, out: seen.append(out)) for module in modules]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("embeddings", [True, False])
def test_weights_are_what_hooks_are(tmp_path: Path, name: str, embeddings: bool) -> None:
    import torch

    model = scrambled(tmp_path / "base", name)
    before = logits(model)
    end = attach(model, Intervention("project", R.astype(np.float32), embeddings=embeddings))
    hooked = logits(model)
    end()
    torch.testing.assert_close(logits(model), before)
    assert take_out(model, R, embeddings)
    torch.testing.assert_close(logits(model), hooked, atol=1e-4, rtol=1e-4)
    assert (hooked - before).abs().max() > 0.1
    model.save_pretrained(tmp_path / "made")  # tied ones are saved with a head of their own
    torch.testing.assert_close(logits(loaded(tmp_path / "made")), hooked, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen2Config"])
def test_in_half_precision_they_agree_to_its_rounding(tmp_path: Path, name: str) -> None:
    import torch

    scrambled(tmp_path / "a", name).save_pretrained(tmp_path / "b")
    model = loaded(tmp_path / "b", torch.bfloat16)
    end = attach(model, PROJECT)
    hooked = logits(model)
    end()
    take_out(model, R, True)
    gap = (logits(model) - hooked).abs()
    assert gap.mean() < 0.02 * hooked.abs().mean()


@pytest.mark.parametrize("name", NORMED)
def test_behind_norms_every_write_loses_the_direction_in_both_forms(tmp_path: Path, name: str) -> None:
    """The run-time form in the embeddings too; the weight form's writes are the other's, each of another length."""
    import torch

    model = scrambled(tmp_path / "base", name)
    r = torch.tensor(R).float()
    seen: dict[bool, list[Any]] = {}
    for embeddings in (True, False):
        end = attach(model, Intervention("project", R.astype(np.float32), embeddings=embeddings))
        with writes(model) as seen[embeddings]:
            logits(model)
        end()
    assert len(seen[True]) == 9 and all((one @ r).abs().max() < 1e-5 for one in seen[True])
    end = attach(model, Intervention("weights", R.astype(np.float32)))
    as_hooks = logits(model)
    end()
    assert not take_out(model, R, True)
    with writes(model) as ours:
        torch.testing.assert_close(logits(model), as_hooks, atol=1e-4, rtol=1e-4)
    assert all((one @ r).abs().max() < 1e-4 for one in ours[1:])
    torch.testing.assert_close(ours[0], seen[False][0])  # tied embeddings stay
    longer = ours[1].norm(dim=-1, keepdim=True) / seen[False][1].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ours[1], longer * seen[False][1], atol=1e-4, rtol=1e-4)


def test_a_gain_is_found_whether_or_not_1_is_added_to_it(tmp_path: Path) -> None:
    for name, least in (("Gemma2Config", 1.0), ("LlamaConfig", 0.0)):
        norm = scrambled(tmp_path / name, name).model.norm
        np.testing.assert_allclose(gain_of(norm), least + norm.weight.detach().numpy(), rtol=1e-4)


def test_adding_shifts_the_input_of_the_layer(tmp_path: Path) -> None:
    model = loaded(save_architecture(tmp_path, "Gemma2Config"))
    found: list[Any] = []
    handle = model.model.layers[2].register_forward_pre_hook(lambda m, given: found.append(given[0]))
    logits(model)
    end = attach(model, Intervention("add", 3 * R.astype(np.float32), layer=2))
    logits(model)
    end()
    handle.remove()
    np.testing.assert_allclose((found[1] - found[0]).detach().numpy(), np.broadcast_to(3 * R, (2, 24, 64)), atol=1e-4)
    with pytest.raises(ConfigError, match="before layer 4, and the model has 4 layers"):
        attach(model, Intervention("add", R, layer=4))


def test_the_file_says_what_was_written_and_training_refuses_it(tmp_path: Path) -> None:
    folder = save_architecture(tmp_path, "LlamaConfig")
    assert read_intervention(folder) is None
    write_intervention(folder, Intervention("add", R, layer=3, embeddings=False))
    found = read_intervention(folder)
    assert found is not None and (found.operation, found.layer, found.embeddings) == ("add", 3, False)
    np.testing.assert_array_equal(found.vector, R.astype(np.float32))
    model = ModelConfig(path=str(folder))
    with pytest.raises(ConfigError, match="run-time form"):
        load_causal_lm(model, load_tokenizer(model))
    (folder / INTERVENTION).write_text("[]")
    with pytest.raises(ConfigError, match="make it anew"):
        read_intervention(folder)


def test_an_architecture_without_the_modules_is_told() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

    small: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16}
    with torch.device("meta"):
        with pytest.raises(ConfigError, match=r"GPT2LMHeadModel has no model\.layers"):
            stream_of(GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=16)))
        with pytest.raises(ConfigError, match=r"layer 0 of MixtralForCausalLM has no mlp\.down_proj"):
            stream_of(MixtralForCausalLM(MixtralConfig(**small, intermediate_size=8, num_hidden_layers=1)))


def test_vllms_layers_give_their_bias_too_and_may_be_elsewhere() -> None:
    import torch

    class PPMissingLayer(torch.nn.Module):
        pass

    class WithBias(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x), None

    block = torch.nn.Module()
    block.self_attn, block.mlp = torch.nn.Module(), torch.nn.Module()
    block.self_attn.o_proj, block.mlp.down_proj = WithBias(64, 64), WithBias(64, 64)
    inner = SimpleNamespace(layers=[PPMissingLayer(), block], embed_tokens=PPMissingLayer())
    attach(SimpleNamespace(model=inner), PROJECT)
    written, bias = block.mlp.down_proj(torch.randn(3, 64))
    assert bias is None and (written @ torch.tensor(R).float()).abs().max() < 1e-5
