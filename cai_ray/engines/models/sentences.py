"""Sentence embeddings by a Hugging Face encoder: mean of the last hidden states over the real tokens, unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EmbeddingSimilarity:
    """text -> [num_texts] cosines with fixed texts, in [-1, 1], rounded to 1e-3.

    Rounded coarsely because draws depend on it and matrix products differ in their last digits between
    machines (guarantee G5). The model is loaded at the first call, in the process that calls.
    """

    def __init__(self, model: str, texts: Sequence[str], max_tokens: int = 512) -> None:
        self._model_path, self._texts, self._max_tokens = model, list(texts), max_tokens
        self._loaded: tuple[Any, Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # weights are loaded again rather than sent to every worker

    def _load(self) -> tuple[Any, Any, Any]:
        if self._loaded is None:
            from transformers import AutoModel, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self._model_path)
            model = AutoModel.from_pretrained(self._model_path).eval()
            self._loaded = (tokenizer, model, self._embed(tokenizer, model, self._texts))
        return self._loaded

    def _embed(self, tokenizer: Any, model: Any, texts: Sequence[str]) -> Any:
        """[num_texts, hidden], unit length. One text at a time: padding would change the last digits."""
        import torch

        vectors = []
        with torch.no_grad():
            for text in texts:
                batch = tokenizer(text, truncation=True, max_length=self._max_tokens, return_tensors="pt")
                hidden = model(input_ids=batch["input_ids"]).last_hidden_state[0].float()
                vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
        return torch.stack(vectors)

    def __call__(self, text: str) -> list[float]:
        tokenizer, model, fixed = self._load()
        (vector,) = self._embed(tokenizer, model, [text])
        return [round(float(cosine), 3) for cosine in fixed @ vector]
