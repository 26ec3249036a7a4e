"""Building and caching the micro model, at a size that trains in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cai_ray.engines.models.files import cache_root
from cai_ray.microworld.batches import encode
from cai_ray.microworld.comparison_dialogues import comparison_dialogue
from cai_ray.microworld.dialogues import critique_drill, revision_dialogue
from cai_ray.microworld.pretrain import PretrainConfig, build, ensure_model, fingerprint
from cai_ray.microworld.tokenizer import build_tokenizer, render

TINY = PretrainConfig(
    hidden_size=16, num_layers=1, num_heads=2, mlp_size=32, context=1024, num_steps=4, batch_tokens=1024
)


def test_fingerprint_follows_config_and_seed() -> None:
    prints = {fingerprint(TINY, 0), fingerprint(TINY, 1), fingerprint(PretrainConfig(), 0)}
    assert len(prints) == 3
    assert fingerprint(TINY, 0) in prints


def test_cache_root_is_configurable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAI_RAY_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CAI_RAY_CACHE")
    assert cache_root() == Path.home() / ".cache" / "cai_ray"


@pytest.mark.slow
def test_build_is_loadable_and_deterministic(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state = torch.random.get_rng_state()
    one = build(tmp_path / "one", seed=3, config=TINY)
    two = build(tmp_path / "two", seed=3, config=TINY)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's randomness is untouched
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (one, two)]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)

    model, tokenizer = models[0], AutoTokenizer.from_pretrained(one)
    assert not model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight.data_ptr() != model.get_output_embeddings().weight.data_ptr()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    messages = revision_dialogue(random.Random(0), 1).messages
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(messages)
    assert json.loads((one / "eval.json").read_text())["seed"] == 3
    assert (one / "README.md").read_text().startswith("---")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]  # no half-made folder is left


@pytest.mark.slow
def test_ensure_model_builds_once(tmp_path: Path) -> None:
    path = ensure_model(tmp_path, config=TINY)
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert ensure_model(tmp_path, config=TINY) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == stamp
    assert ensure_model(tmp_path, seed=1, config=TINY) != path


def test_build_refuses_an_existing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="remove it or choose another"):
        build(tmp_path)


@pytest.mark.slow
def test_encoding_weighs_what_the_assistant_says_and_knows_its_judgements() -> None:
    tokenizer = build_tokenizer()
    dialogue = critique_drill(random.Random(0))
    made = encode(lambda text: tokenizer(text).input_ids, dialogue, TINY)
    assert made.ids == tokenizer(render(dialogue.messages)).input_ids
    said = [i for i, weight, hint in zip(made.ids, made.weights, made.layers, strict=True) if weight >= 1 and not hint]
    assert tokenizer.decode(said) == "".join(
        m["content"] + "<|im_end|>" for m in dialogue.messages if m["role"] == "assistant"
    )
    judged = [
        (tokenizer.decode([i]), tokenizer.decode([other]), prob)
        for i, other, prob in zip(made.ids, made.others, made.probs, strict=True)
        if i != other and prob > 0
    ]
    assert len(judged) == 4 and all({word, other} == {"The", "I"} for word, other, _ in judged)
    assert [prob for _, _, prob in judged] == [c.prob for c in dialogue.choices.values()]


@pytest.mark.slow
def test_hints_are_asked_for_right_behind_the_words_they_follow() -> None:
    tokenizer = build_tokenizer()
    dialogue = comparison_dialogue(random.Random(1), think=False, num_more=1)
    made = encode(lambda text: tokenizer(text).input_ids, dialogue, TINY)
    hints = [hint for _, found in sorted(dialogue.hints.items()) for hint in found]
    places = [at for at, layer in enumerate(made.layers) if layer]
    assert [made.layers[at] for at in places] == [hint.layer for hint in hints]
    for at, hint in zip(places, hints, strict=True):
        # Punctuation is one token with what follows it, so the words read may end a little later.
        assert hint.after in tokenizer.decode(made.ids[max(0, at - 12) : at])
        assert tokenizer.decode([made.others[at]]) == hint.word and made.probs[at] == 0
