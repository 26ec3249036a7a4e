"""Embeddings by vLLM's pooling runner as a backend: one vector per text, pooled as the model's own folder says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.vllm_engine import VllmEngine
from cai_ray.engines.conversations.asking import Counts, Guard

# Every text is new, so there is nothing to find in a prefix cache, and encoders cannot have one.
_ARGUMENTS = {"runner": "pooling", "convert": "embed", "enable_prefix_caching": False}


class EmbeddingBackend(VllmEngine):
    """A restartable vLLM engine that embeds. `start` raises for a model that vLLM cannot embed with."""

    def __init__(self, model: ModelConfig) -> None:
        engine = model.engine.model_copy(update={"extra": _ARGUMENTS | model.engine.extra})
        # Texts are embedded as they are: no chat template is needed.
        super().__init__(model.model_copy(update={"engine": engine, "format": "transcript"}))

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> EmbeddingConversation:
        return EmbeddingConversation(self, row_id, guard)

    def encode(self, text: str) -> list[int]:
        """Token ids, cut on the right to what the model reads. Raises DropRow for a text without tokens."""
        tokenizer: Any = self.renderer.tokenizer
        ids: list[int] = tokenizer(text, truncation=True, max_length=self.max_model_len)["input_ids"]
        if not text.strip() or not ids:
            raise DropRow(DropReason.EMPTY_RESPONSE, "there is no text to embed")
        return ids

    async def embed(self, ids: list[int], request_id: str) -> list[float]:
        """[hidden], unit length unless the model's folder says otherwise. Raises EngineDied, DropRow."""
        from vllm import PoolingParams, TokensPrompt

        request = self._engine.encode(TokensPrompt(prompt_token_ids=ids), PoolingParams(task="embed"), request_id)
        final = await self._last(request)
        vector: list[float] = final.outputs.data.float().tolist()
        return vector


class EmbeddingConversation(Counts):
    """One row's door to an EmbeddingBackend."""

    def __init__(self, backend: EmbeddingBackend, row_id: str, guard: Guard) -> None:
        super().__init__()
        self._backend, self._row_id, self._guard = backend, row_id, guard
        self._num_sent = 0

    async def embed(self, text: str) -> list[float]:
        """[hidden]. Raises DropRow: EMPTY_RESPONSE, and whatever the engine has against the request."""
        ids = self._backend.encode(text)

        async def send() -> list[float]:
            self._num_sent += 1  # a retry on a new engine is a new request there
            return await self._backend.embed(ids, f"{self._row_id}#{self._num_sent}")

        vector: list[float] = await self._guard(send)
        self.account_read(len(ids))
        return vector
