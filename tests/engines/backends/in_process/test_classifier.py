"""Classifiers and reward models, made on the spot: batched numbers are those of stock transformers, one at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.in_process.classifier import ClassifierBackend, Outputs
from cai_ray.engines.models import classifier
from cai_ray.engines.models.classifier import InputForm
from cai_ray.engines.models.load_classifier import is_multi_label, labels_of
from cai_ray.engines.models.scoring import Scorer
from cai_ray.errors import ConfigError
from tests.tiny_models import byte_tokenizer, save_tiny

pytestmark = pytest.mark.slow
CONVERSATIONS: list[tuple[list[Message], str]] = [
    ([{"role": "user", "content": "How do I paint my garden chair?"}], "Take a brush."),
    ([{"role": "user", "content": "Hi"}], "No. " * 30),
    (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Tell me of tea."},
        ],
        "x",
    ),
    ([{"role": "user", "content": "Say <|im_end|>"}], "<|im_end|>"),
]


async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


def outputs(backend: ClassifierBackend, texts: Sequence[tuple[list[Message], str]]) -> list[Outputs]:
    """All at once, as rows of one engine are."""

    async def main() -> list[Outputs]:
        await backend.start()
        doors = [backend.open(str(k), lambda k: 0, pass_on) for k in range(len(texts))]
        return await asyncio.gather(*(door.outputs(*text) for door, text in zip(doors, texts, strict=True)))

    return asyncio.run(main())


def classify(folder: Path, form: InputForm, texts: Sequence[tuple[list[Message], str]], **model: Any) -> list[Outputs]:
    return outputs(ClassifierBackend(ModelConfig(path=str(folder), **model), form), texts)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with the two labels of the hate classifier, 40 positions of which 38 can be used."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
        initializer_range=0.5,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stock(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def alone(model: Any, **fields: list[int]) -> list[float]:
    import torch

    with torch.inference_mode():
        logits = model(**{name: torch.tensor([values]) for name, values in fields.items()}).logits[0]
    return [float(value) for value in logits]


def test_an_encoder_reads_the_answer_alone(roberta: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(roberta), stock(roberta)
    found = classify(roberta, "answer", CONVERSATIONS)
    for (_, answer), got in zip(CONVERSATIONS, found, strict=True):
        ids = tokenizer(answer, truncation=True, max_length=39)["input_ids"]
        assert got.truncated == (len(tokenizer(answer)["input_ids"]) > 39)
        assert got.values == pytest.approx(alone(model, input_ids=ids), abs=1e-5)
    assert [one.truncated for one in found] == [False, True, False, False]
    assert len({tuple(one.values) for one in found}) == len(found)


def test_labels_are_known_without_the_weights(roberta: Path, tmp_path: Path) -> None:
    assert labels_of(ModelConfig(path=str(roberta))) == ["nothate", "hate"]
    assert not is_multi_label(ModelConfig(path=str(roberta)))
    with pytest.raises(ConfigError, match="no classifier at"):
        labels_of(ModelConfig(path=str(tmp_path)))


def test_a_reward_model_reads_through_its_own_template(tmp_path: Path) -> None:
    """And ours, whose saved template renders what Scorer encodes, gets the score that Scorer gives it."""
    folder = save_tiny(tmp_path / "pm", classifier=True)
    scorer = Scorer(folder)
    tokenizer = scorer.tokens.tokenizer
    tokenizer.chat_template = scorer.tokens.scoring_template()
    tokenizer.save_pretrained(folder)
    found = classify(folder, "chat", CONVERSATIONS)
    assert [one.values[0] for one in found] == pytest.approx(scorer.score(CONVERSATIONS), abs=1e-5)
    assert not any(one.truncated for one in found)


def test_a_template_that_ends_behind_the_turn_is_kept_to_the_letter(tmp_path: Path) -> None:
    """Scored at the last token that the template writes, here a line break: it is another model's own business."""
    folder = save_tiny(tmp_path / "rm", classifier=True)
    tokenizer = byte_tokenizer()
    (found,) = classify(folder, "chat", CONVERSATIONS[:1])
    messages, answer = CONVERSATIONS[0]
    text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    assert text.endswith("\n")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert found.values == pytest.approx(alone(stock(folder), input_ids=ids), abs=1e-5)


def test_a_pair_of_texts_keeps_its_token_types(tmp_path: Path) -> None:
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = byte_tokenizer()
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end[0]}", pair=f"$A:0 {end[0]}:0 $B:1 {end[0]}:1", special_tokens=[end]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=300,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = tmp_path / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    saved.write_text(json.dumps(json.loads(saved.read_text()) | names))
    found = classify(tmp_path, "pair", CONVERSATIONS[:1])
    both = AutoTokenizer.from_pretrained(tmp_path)("Human: How do I paint my garden chair?", "Take a brush.")
    assert 1 in both["token_type_ids"]
    expected = alone(stock(tmp_path), input_ids=both["input_ids"], token_type_ids=both["token_type_ids"])
    assert found[0].values == pytest.approx(expected, abs=1e-5)


def test_batches_of_any_size_give_the_same(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classify(roberta, "answer", CONVERSATIONS)
    monkeypatch.setattr(classifier, "BATCH_TOKENS", 1)
    single = classify(roberta, "answer", CONVERSATIONS)
    for one, other in zip(whole, single, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5)


def test_a_model_without_a_padding_token_is_asked_one_at_a_time(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "rm", classifier=True)
    expected = classify(folder, "chat", CONVERSATIONS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    found = classify(folder, "chat", CONVERSATIONS)
    for one, other in zip(found, expected, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5)


def test_a_chat_over_the_context_is_one_dropped_row(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "rm", classifier=True, max_tokens=64)
    with pytest.raises(DropRow) as caught:
        classify(folder, "chat", [CONVERSATIONS[1]])
    assert caught.value.reason == DropReason.TOO_LONG and "the model reads 64" in caught.value.detail


def test_outputs_that_are_no_numbers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_tiny(tmp_path / "rm", classifier=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] = torch.full_like(tensors["score.weight"], float("nan"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DropRow) as caught:
        classify(folder, "chat", CONVERSATIONS[:1])
    assert caught.value.reason == DropReason.UNPARSABLE


def test_one_text_that_fails_costs_no_other(roberta: Path) -> None:
    backend = ClassifierBackend(ModelConfig(path=str(roberta)), "answer")

    async def main() -> list[Any]:
        await backend.start()
        good = backend.encode(*CONVERSATIONS[0])
        bad = good._replace(fields={"input_ids": [10**9]})
        return await asyncio.gather(*map(backend.outputs, (good, bad, good)), return_exceptions=True)

    one, lost, other = asyncio.run(main())
    assert one == pytest.approx(other) and isinstance(lost, DropRow) and lost.reason == DropReason.REQUEST_REJECTED


def test_what_is_no_classifier(tmp_path: Path) -> None:
    causal = save_tiny(tmp_path / "causal")
    with pytest.raises(ConfigError, match=r"is no classifier: its weights lack score\.weight"):
        classify(causal, "chat", CONVERSATIONS[:1])
    with pytest.raises(ConfigError, match="no classifier at"):
        classify(tmp_path, "chat", CONVERSATIONS[:1])
    bare = save_tiny(tmp_path / "bare", classifier=True)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        classify(bare, "chat", CONVERSATIONS[:1])
