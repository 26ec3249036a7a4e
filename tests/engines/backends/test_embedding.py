"""Embeddings by vLLM's pooling runner, against stock transformers: a decoder and an encoder made on the spot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.embedding import EmbeddingBackend
from tests.tiny_models import byte_tokenizer
from tests.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.slow
TEXTS = ["How do I paint my garden chair?", "Take a brush.", "x", "No. " * 200]
ENGINE = EngineConfig(max_num_seqs=8, max_num_batched_tokens=1024, kv_cache_gib=1.0)


def embed(folder: Path, texts: list[str], **model: Any) -> list[Any]:
    """Vectors of the texts, all asked at once; a DropRow in place of what has none."""

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> list[Any]:
        backend = EmbeddingBackend(ModelConfig(path=str(folder), engine=ENGINE, **model))
        await backend.start()
        try:
            doors = [backend.open(str(k), lambda k: 0, pass_on) for k in range(len(texts))]
            return await asyncio.gather(
                *(door.embed(text) for door, text in zip(doors, texts, strict=True)), return_exceptions=True
            )
        finally:
            backend.close()

    return asyncio.run(main())


def last_states(folder: Path, texts: list[str], max_tokens: int) -> list[Any]:
    """[hidden] of each text's last token, unit length: how vLLM pools a decoder that says nothing about pooling."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = model(input_ids=ids).last_hidden_state[0, -1]
        found.append(torch.nn.functional.normalize(hidden, dim=0).tolist())
    return found


def test_a_decoder(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path)
    *found, lost = embed(folder, [*TEXTS, "  "], max_model_len=64)
    expected = last_states(folder, TEXTS, 64)
    for got, wanted in zip(found, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-3)
    assert isinstance(lost, DropRow) and lost.reason == DropReason.EMPTY_RESPONSE


def test_an_encoder(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32: vLLM on CPU has no kernel for 16
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = embed(tmp_path, TEXTS[:3])
    for text, got in zip(TEXTS, found, strict=False):
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        first = torch.nn.functional.normalize(hidden[0], dim=0).tolist()  # BERT's own pooling: the first token
        assert got == pytest.approx(first, abs=1e-3)
