"""The learners' modules against stock transformers, and weights under their Hugging Face names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig, LlamaForSequenceClassification

from cai_ray.config import LoraConfig
from cai_ray.engines.learners.nets import score_net, token_net, turn_dropout_off
from cai_ray.engines.learners.packing import cut, pack
from cai_ray.engines.learners.weights import buckets, export, policy_weights, stream
from cai_ray.engines.models.trainable import peft_config

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "caps": Gemma2Config(**SIZES, final_logit_softcapping=1.5),
    "scales": GraniteConfig(**SIZES, logits_scaling=3.0),
}
PAIRS = [([5, 6, 7], [8, 9]), ([4], [3, 11, 12, 13]), ([20, 21], [22])]


def causal_lm(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs() -> tuple[dict[str, torch.Tensor], Any]:
    found = cut(pack([p for p, _ in PAIRS], [a for _, a in PAIRS], {}), (1, 0, 2))
    return {n: torch.from_numpy(getattr(found, n)) for n in ("input_ids", "rows", "before", "targets")}, found


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_log_probabilities_are_those_of_stock_transformers(name: str) -> None:
    model = causal_lm(name)
    given, _ = inputs()
    logprobs, entropy = token_net(model)(**given, temperature=0.7, with_entropy=True)
    expected, spread = [], []
    for n in (1, 0, 2):
        prompt, answer = PAIRS[n]
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / 0.7
        nats = logits.log_softmax(-1)
        expected.append(nats[range(len(answer)), answer])
        spread.append(-(nats.exp() * nats).sum(-1))
    assert_close(logprobs, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert_close(entropy, torch.cat(spread), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores_are_those_of_stock_transformers() -> None:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).eval()
    conversations = [[5, 6, 7, 8], [9, 3], [20, 21, 22, 23, 24]]
    found = cut(pack(conversations, [[0]] * 3, {}), (0, 1, 2))
    given = {name: torch.from_numpy(getattr(found, name)) for name in ("input_ids", "rows", "before")}
    expected = torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in conversations])
    mask = torch.arange(6)[None] <= given["before"][:, None]
    assert_close(score_net(model)(**given), expected)
    assert_close(score_net(model)(**given, mask=mask.long()), expected)


def adapted(name: str) -> Any:
    import peft

    model = peft.get_peft_model(causal_lm(name), peft_config(LoraConfig(rank=2)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def test_adapters_are_merged_under_the_names_of_the_model_itself() -> None:
    model = adapted("llama")
    given, _ = inputs()
    expected, _ = token_net(model)(**given, temperature=1.0, with_entropy=False)
    found = {weight.name: weight.value().clone() for weight in policy_weights(model)}
    plain = causal_lm("llama")
    assert set(found) == {name for name, _ in plain.named_parameters()}
    changed = {name for name, parameter in plain.named_parameters() if not torch.equal(parameter, found[name])}
    assert changed and all("proj" in name for name in changed)
    plain.load_state_dict(found)
    assert_close(token_net(plain)(**given, temperature=1.0, with_entropy=False)[0], expected)


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_weights_come_in_buckets_in_order(name: str) -> None:
    model = causal_lm(name)
    names = [weight.name for weight in policy_weights(model)]
    assert names == [each for each, _ in model.named_parameters()]
    sizes = {weight.name: weight.size_bytes for weight in policy_weights(model)}
    found = list(buckets(policy_weights(model), 4000))
    assert [weight.name for bucket in found for weight in bucket] == names
    assert len(found) > 3
    assert all(len(bucket) == 1 or sum(sizes[weight.name] for weight in bucket) <= 4000 for bucket in found)
    received: dict[str, torch.Tensor] = {}
    stream(model, 4000, received.update)
    assert all(torch.equal(received[each], parameter) for each, parameter in model.named_parameters())


@pytest.mark.parametrize("make", [causal_lm, adapted])
def test_an_exported_folder_loads_in_the_precision_asked_for(make: Any, tmp_path: Path) -> None:
    class Tokenizer:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "tokenizer.json").touch()

    model = make("tied")
    export(model, Tokenizer(), tmp_path, "# card\n", torch.bfloat16)
    assert (tmp_path / "README.md").read_text() == "# card\n"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    given, _ = inputs()
    with torch.no_grad():
        expected, _ = token_net(model)(**given, temperature=1.0, with_entropy=False)
        found, _ = token_net(loaded.float())(**given, temperature=1.0, with_entropy=False)
    assert_close(found, expected, rtol=0.05, atol=0.2)


def test_dropout_is_off_also_in_training() -> None:
    model = token_net(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, attention_dropout=0.5))).train()
    turn_dropout_off(model)
    given, _ = inputs()
    first, second = (model(**given, temperature=1.0, with_entropy=False)[0] for _ in range(2))
    assert torch.equal(first, second)
