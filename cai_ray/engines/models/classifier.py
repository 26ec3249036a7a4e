"""A classifier that is ready to classify, whatever it was loaded from.

Tested in tests/engines/backends/test_classifier.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# "answer": its text, nothing else; "pair": conversation and answer as two texts, as cross-encoders have them;
# "chat": through the tokenizer's chat template; "value_head": see value_head.py.
InputForm = Literal["answer", "pair", "chat", "value_head"]


@dataclass(frozen=True)
class LoadedClassifier:
    """A model ready to classify."""

    name: str  # for messages to people
    model: Any  # called as stock transformers' sequence classifiers are; eval mode
    tokenizer: Any
    max_tokens: int
    pad_id: int | None  # None: one text at a time
    system_role: Literal["auto", "native", "fold", "drop"]
    chat_template: str | None  # in place of the tokenizer's

    @property
    def can_batch(self) -> bool:
        return self.pad_id is not None

    def outputs(self, texts: Sequence[Mapping[str, Sequence[int]]]) -> list[list[float]]:
        """[num_texts][num_labels] raw outputs. Texts of different length are padded on the right."""
        import torch

        longest = max(len(text["input_ids"]) for text in texts)
        batch: dict[str, Any] = {}
        for name in texts[0]:
            fill = (self.pad_id or 0) if name == "input_ids" else 0
            batch[name] = [[*text[name], *([fill] * (longest - len(text[name])))] for text in texts]
        lengths = [len(text["input_ids"]) for text in texts]
        batch["attention_mask"] = [[1] * length + [0] * (longest - length) for length in lengths]
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            logits = self.model(**{name: torch.tensor(rows, device=device) for name, rows in batch.items()}).logits
        found: list[list[float]] = logits.double().cpu().tolist()
        return found
