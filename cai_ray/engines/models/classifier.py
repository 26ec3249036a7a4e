"""A classifier that is ready to classify, whatever it was loaded from, and its one forward pass.

Tested in tests/engines/backends/in_process/test_classifier.py and tests/engines/models/test_scoring.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cai_ray.config import SystemRole

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 16_384  # padded tokens per forward pass
# "answer": its text, nothing else; "pair": conversation and answer as two texts, as cross-encoders have them;
# "chat": through the tokenizer's chat template; "value_head": see value_head.py.
InputForm = Literal["answer", "pair", "chat", "value_head"]
Fields = Mapping[str, Sequence[int]]  # one text: input_ids, and token_type_ids where the model has them


@dataclass(frozen=True)
class LoadedClassifier:
    """A model ready to classify."""

    name: str  # for messages to people
    model: Any  # called as stock transformers' sequence classifiers are; eval mode
    tokenizer: Any
    max_tokens: int
    pad_id: int | None  # None: one text at a time
    system_role: SystemRole
    chat_template: str | None  # in place of the tokenizer's
    template_kwargs: Mapping[str, Any]  # the template's variables

    def batch_size(self, longest: int) -> int:
        """How many texts of at most `longest` tokens a forward pass takes."""
        return 1 if self.pad_id is None else max(1, BATCH_TOKENS // max(1, longest))

    def outputs(self, texts: Sequence[Fields]) -> list[list[float]]:
        """[num_texts][num_labels] raw outputs."""
        import torch

        with torch.inference_mode():
            found: list[list[float]] = self.model(**self._padded(texts)).logits.double().cpu().tolist()
        return found

    def states(self, texts: Sequence[Fields]) -> list[list[float]]:
        """[num_texts][hidden], the body's last state at each text's last token: what a score head sees."""
        import torch

        batch = self._padded(texts)
        last = batch["attention_mask"].sum(dim=1) - 1
        with torch.inference_mode():
            hidden = last_states(self.model, batch["input_ids"], batch["attention_mask"])
            found: list[list[float]] = hidden[torch.arange(len(texts)), last].double().cpu().tolist()
        return found

    def _padded(self, texts: Sequence[Fields]) -> dict[str, Tensor]:
        """The model's arguments; texts of different length are padded on the right."""
        import torch

        lengths = [len(text["input_ids"]) for text in texts]
        longest = max(lengths)
        batch: dict[str, Any] = {"attention_mask": [[1] * length + [0] * (longest - length) for length in lengths]}
        for name in texts[0]:
            fill = (self.pad_id or 0) if name == "input_ids" else 0
            batch[name] = [[*text[name], *([fill] * (longest - len(text[name])))] for text in texts]
        device = next(self.model.parameters()).device
        return {name: torch.tensor(rows, device=device) for name, rows in batch.items()}


def last_states(model: Any, input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """[num_texts, length, hidden] of the transformers model's body, without its head."""
    body = getattr(model, model.base_model_prefix)
    hidden: Tensor = body(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden
