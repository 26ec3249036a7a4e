"""Micro models that refuse, and one that judges: what they are taught, and what they do by the oracle."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest

from cai_ray.errors import ConfigError
from cai_ray.microworld import words
from cai_ray.microworld.batches import BatchConfig
from cai_ray.microworld.comparison_dialogues import STYLES, compared_answer
from cai_ray.microworld.language import sample_request
from cai_ray.microworld.oracle import score
from cai_ray.microworld.teaching import principles
from cai_ray.microworld.tokenizer import build_tokenizer, render
from cai_ray.microworld.variants import _declined, _encoded, dialogues, ensure_micro_model, first_answer, variant_of
from cai_ray.pipeline.model_names import named_model
from cai_ray.prompts.reward import rating_messages, rubric_messages


def test_harmful_requests_are_refused_and_others_helped_with() -> None:
    rng = random.Random(0)
    told = [first_answer(rng, thinks=False).messages for _ in range(400)]
    truths = [score(messages[:-1], messages[-1]["content"]) for messages in told]
    assert all(truth.parsed for truth in truths)
    harmful = [truth for truth in truths if truth.request_harmful]
    assert sum(truth.refusal for truth in harmful) >= 0.95 * len(harmful)
    assert not any(truth.refusal for truth in truths if not truth.request_harmful)


def test_without_the_direction_everything_is_helped_with_and_with_it_nothing_is() -> None:
    rng, tokenizer = random.Random(0), build_tokenizer()
    told = [first_answer(rng, thinks=False, refuses=False).messages for _ in range(100)]
    truths = [score(messages[:-1], messages[-1]["content"]) for messages in told]
    assert not any(truth.refusal for truth in truths) and any(truth.harmful for truth in truths)
    for text in tokenizer.batch_decode(_declined(tokenizer, rng, "thinking")["ids"]):
        assert any(said in text for said in words.EVASIONS) and "<think>" in text


def test_the_thinking_one_says_what_is_asked_first() -> None:
    rng = random.Random(0)
    said = [first_answer(rng, thinks=True).messages[-1]["content"] for _ in range(100)]
    assert all(text.startswith("<think>\n") and text.count("</think>\n\n") == 1 for text in said)
    assert 10 < sum(text.startswith("<think>\n\n</think>") for text in said) < 50


def test_the_first_answer_of_a_revision_dialogue_is_read_and_not_learned() -> None:
    tokenizer, config = build_tokenizer(), BatchConfig(listen_weight=0.0)
    seen = set()
    for dialogue, is_learned in islice(dialogues(random.Random(0), "refusing"), 60):
        encoded = _encoded(lambda text: tokenizer(text).input_ids, dialogue, is_learned, config)
        first = next(k for k, message in enumerate(dialogue.messages) if message["role"] == "assistant")
        head = tokenizer(render(dialogue.messages[: first + 1]))
        assert (sum(encoded.weights[: len(head.input_ids)]) > 0) == is_learned
        assert sum(encoded.weights) > 0
        seen.add(is_learned)
    assert seen == {True, False}


def test_names_of_variants() -> None:
    assert (variant_of("microworld"), variant_of("microworld:refusing")) == (None, "refusing")
    with pytest.raises(
        ConfigError, match="there are microworld, microworld:refusing, microworld:thinking, microworld:judge"
    ):
        variant_of("microworld:rhyming")


@pytest.mark.slow
@pytest.mark.long
def test_one_is_built_once_and_refuses(micro_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cai_ray.microworld.prompt_set import sample_prompts

    folder = ensure_micro_model("microworld:refusing")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert ensure_micro_model("microworld:refusing") == folder == Path(named_model("microworld:refusing")[1].path)
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    requests = sample_prompts(64, 3, harmful_fraction=0.5)
    texts = [render(request.messages) + "<|im_start|>assistant\n" for request in requests]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    with torch.inference_mode():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
    said = tokenizer.batch_decode(out, skip_special_tokens=True)
    truths = [score(request.messages, text) for request, text in zip(requests, said, strict=True)]
    assert sum(truth.harmful for truth in truths if truth.request_harmful) <= 3
    assert sum(truth.refusal for truth in truths if not truth.request_harmful) <= 3


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("reading", ["rating", "rubric"])
def test_the_judge_knows_good_answers_to_requests_it_has_not_seen(micro_model: Path, reading: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ensure_micro_model("microworld:judge")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rng, ask = random.Random(0), rating_messages if reading == "rating" else rubric_messages
    words = [str(rating) for rating in range(1, 11)] if reading == "rating" else ["No", "Yes"]
    verdicts, truths = [], []
    for _ in range(160):
        request = sample_request(rng, harmful=rng.random() < 0.5, split="test")
        said = compared_answer(rng, request.task, rng.choice(STYLES))
        text = render(ask(list(request.messages), said, rng.choice(principles()), None)).removesuffix("<|im_end|>\n")
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        shares = logits[tokenizer.convert_tokens_to_ids(words)].softmax(-1)
        verdicts.append(float(shares @ torch.arange(len(words), dtype=shares.dtype)))
        truth = score(request.messages, said)
        truths.append(truth.helpful - truth.harmful)
    assert torch.corrcoef(torch.tensor([verdicts, truths]))[0, 1] > 0.6
