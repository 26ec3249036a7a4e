"""Classifiers and reward models as a backend: many conversations at once, batched into forward passes.

Each text gets the numbers that stock transformers give it alone: batching is padding on the right, with the padding
token that the model's own config names. The rows' coroutines, budgets, drops and parts are those of every backend.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.in_process.together import Together
from cai_ray.engines.conversations.asking import Counts, Guard, Unasked
from cai_ray.engines.models.classifier import InputForm, LoadedClassifier
from cai_ray.engines.models.classifier_inputs import Encoded, Reader
from cai_ray.engines.models.load_classifier import load_classifier

MAX_OPEN_ROWS = 512


class Outputs(NamedTuple):
    """What a classifier says about one text."""

    values: list[float]  # [num_labels] raw outputs of the head
    truncated: bool  # the text was cut to the model's length


class ClassifierBackend(Unasked):
    """One classifier on a GPU where there is one. Raises ConfigError in `start` when `model` is none."""

    max_concurrent_rows = MAX_OPEN_ROWS
    num_kv_tokens: int | None = None

    def __init__(self, model: ModelConfig, form: InputForm, backbone: str | None = None) -> None:
        self.model, self.form, self.backbone = model, form, backbone
        self._loaded: LoadedClassifier | None = None
        self._reader: Reader | None = None
        self._texts: Together[None, Encoded, list[float]] = Together(self._compute, self._num_that_fit)

    async def start(self) -> None:
        """Load the weights: seconds to minutes."""
        self._loaded = await asyncio.to_thread(load_classifier, self.model, self.form, self.backbone)
        self._reader = Reader(self._loaded, self.form)

    def kill(self) -> None:
        """Nothing: a forward pass runs in this process and ends by itself; rows have their own time limit."""

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> ClassifierConversation:
        return ClassifierConversation(self, guard)

    def encode(self, messages: Sequence[Message], answer: str) -> Encoded:
        """What the model reads. Raises DropRow(TOO_LONG)."""
        assert self._reader is not None
        return self._reader.encode(messages, answer)

    async def outputs(self, text: Encoded) -> list[float]:
        """[num_labels] raw outputs for one text, computed together with others that wait. Raises DropRow."""
        return await self._texts.ask(None, text, len(text.ids))

    def _num_that_fit(self, _: None, length: int) -> int:
        assert self._loaded is not None
        return self._loaded.batch_size(length)

    def _compute(self, _: None, texts: list[Encoded]) -> list[list[float]]:
        assert self._loaded is not None
        return self._loaded.outputs([text.fields for text in texts])


class ClassifierConversation(Counts):
    """One row's door to a classifier."""

    def __init__(self, backend: ClassifierBackend, guard: Guard) -> None:
        super().__init__()
        self._backend, self._guard = backend, guard

    async def outputs(self, messages: Sequence[Message], answer: str) -> Outputs:
        """Raw outputs for an answer to messages. Raises DropRow: TOO_LONG, and UNPARSABLE for what is no number."""
        text = self._backend.encode(messages, answer)
        values: list[float] = await self._guard(lambda: self._backend.outputs(text))
        self.account_read(len(text.ids))
        if not all(map(math.isfinite, values)):
            raise DropRow(DropReason.UNPARSABLE, f"the classifier's outputs are {values}, not all numbers")
        return Outputs(values, text.truncated)
