"""A model that is looked into, as a backend: activations and short answers of many rows, batched.

vLLM does not show what it computes inside, so this is transformers; the rows' coroutines, budgets, drops and parts are
those of every backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np

from cai_ray.chat import Message, Renderer
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.in_process.together import Together
from cai_ray.engines.conversations.asking import Counts, Guard, Unasked
from cai_ray.engines.models.files import localised
from cai_ray.engines.models.reading import context_length, load_renderer
from cai_ray.engines.models.residual.intervention import Intervention
from cai_ray.engines.models.residual.probing import Probe, load_probe

BATCH_TOKENS = 8192  # padding included, of one forward pass
AS_IS = ""  # the name of no intervention
Interventions = dict[str, Intervention | None]  # by name
Key = tuple[str, str, int]  # kind of request, name of the intervention, tokens or positions besides the text's
Text = tuple[list[int], Any]  # token ids, and what else the kind takes


def prompt_ids(renderer: Renderer, messages: Sequence[Message], model: ModelConfig) -> list[int]:
    """Token ids up to where the answer begins: a model that thinks is taken to have thought nothing."""
    text = renderer.text(renderer.neutralised(messages)[0])
    if (thinking := model.thinking) is not None:
        text += ("" if thinking.opened_by_template else thinking.open) + f"\n\n{thinking.close}\n\n"
    return renderer.encode(text)


def num_template_tokens(renderer: Renderer, model: ModelConfig) -> int:
    """How many tokens at the end of every prompt are the template's, whatever was asked; at least 1."""
    one, other = (prompt_ids(renderer, [{"role": "user", "content": text}], model) for text in ("Hello.", "12 trees"))
    same = (a == b for a, b in zip(reversed(one), reversed(other), strict=False))
    return max(1, len(list(takewhile(bool, same))))


class ProbeBackend(Unasked):
    """One model, and the interventions that may be asked for. `start` raises ConfigError for another architecture."""

    max_concurrent_rows = 256
    num_kv_tokens: int | None = None

    def __init__(self, model: ModelConfig, changes: Interventions | None = None) -> None:
        self.model = localised(model)
        self.changes: Interventions = changes or {}
        self.renderer: Renderer = load_renderer(self.model)
        self.max_model_len = context_length(self.model)
        self._probe: Probe | None = None
        self._texts: Together[Key, Text, Any] = Together(self._compute, _num_that_fit)
        self._known: dict[Hashable, asyncio.Future[Any]] = {}  # of the model as it is: changes are held against it

    async def start(self) -> None:
        """Load the weights: seconds to minutes."""
        self._probe = await asyncio.to_thread(load_probe, self.model)

    @property
    def probe_model(self) -> Probe:
        assert self._probe is not None
        return self._probe

    def kill(self) -> None:
        """Nothing: a forward pass runs in this process and ends by itself; rows have their own time limit."""

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> ProbeConversation:
        return ProbeConversation(self, guard)

    async def together(self, kind: str, change: str, size: int, ids: list[int], extra: Any = None) -> Any:
        """`kind` of request on one text, computed with others of the same kind, change and `size`. Raises DropRow."""
        key, request = (kind, change, size), (ids, extra)
        if change != AS_IS or kind not in ("first", "answer"):
            return await self._texts.ask(key, request, len(ids))
        text = (kind, size, tuple(ids))
        if text not in self._known:
            self._known[text] = self._texts.ask(key, request, len(ids))
        return await asyncio.shield(self._known[text])  # another row may wait for it when this one's time is up

    def _compute(self, key: Key, asked: list[Text]) -> Sequence[Any]:
        kind, change, size = key
        texts, probe = [ids for ids, _ in asked], self.probe_model
        intervention = self.changes.get(change)
        compute: dict[str, Callable[[], Sequence[Any]]] = {
            "residuals": lambda: list(probe.residuals(texts, size)),
            "first": lambda: list(probe.first_logprobs(texts, intervention)),
            "answer": lambda: probe.answers(texts, intervention, size),
            "likelihood": lambda: probe.likelihoods(texts, [extra for _, extra in asked], intervention),
        }
        return compute[kind]()


def _num_that_fit(key: Key, longest: int) -> int:
    return BATCH_TOKENS // (longest + key[2])


def probe_backend(model: ModelConfig, changes: Interventions | None = None) -> Any:
    """What a worker makes its backend with; its conversations are no `Ask`, for nothing is sampled."""
    return ProbeBackend(model, changes)


class ProbeConversation(Counts):
    """One row's door to a ProbeBackend. `change`: the name of an intervention, or AS_IS."""

    def __init__(self, backend: ProbeBackend, guard: Guard) -> None:
        super().__init__()
        self._backend, self._guard = backend, guard

    def encode(self, messages: Sequence[Message], room: int = 0) -> list[int]:
        """Token ids of the prompt. Raises DropRow(TOO_LONG) where `room` more tokens would not fit."""
        ids = prompt_ids(self._backend.renderer, messages, self._backend.model)
        if len(ids) + room > self._backend.max_model_len:
            limit = self._backend.max_model_len
            raise DropRow(DropReason.TOO_LONG, f"{len(ids)} tokens and {room} of an answer; the model reads {limit}")
        return ids

    def offer(self, name: str, change: Intervention) -> None:
        """Another intervention to ask for, by a name that no other row uses."""
        self._backend.changes[name] = change

    async def residuals(self, messages: Sequence[Message], num_positions: int) -> np.ndarray:
        """float32 [num_layers, num_positions, d]; see Probe. Raises DropRow."""
        found: np.ndarray = await self._send("residuals", AS_IS, num_positions, self.encode(messages))
        return found

    async def first_logprobs(self, messages: Sequence[Message], change: str) -> np.ndarray:
        """float32 [vocab], nats, of the first token of an answer. Raises DropRow."""
        found: np.ndarray = await self._send("first", change, 0, self.encode(messages))
        return found

    async def answer(self, messages: Sequence[Message], change: str, max_tokens: int) -> tuple[str, list[int]]:
        """A greedy answer and its token ids, without what ends it. Raises DropRow."""
        ids: list[int] = await self._send("answer", change, max_tokens, self.encode(messages, max_tokens))
        self.usage.num_output_tokens += len(ids)
        return str(self._backend.renderer.tokenizer.decode(ids, skip_special_tokens=True)).strip(), ids

    async def likelihood(self, messages: Sequence[Message], answer: Sequence[int], change: str) -> float:
        """The log-probability of an answer, nats. Raises DropRow."""
        found: float = await self._send("likelihood", change, len(answer), self.encode(messages), list(answer))
        return found

    async def _send(self, kind: str, change: str, size: int, ids: list[int], extra: Any = None) -> Any:
        found = await self._guard(partial(self._backend.together, kind, change, size, ids, extra))
        self.account_read(len(ids))
        return found
