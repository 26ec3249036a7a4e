"""A stand-in for the engine: a stage's own row functions ask it, and what they would have sent is counted.

It keeps a prefix cache as vLLM does, in blocks, that never runs full.

Tested in tests/planning/test_counting.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cai_ray.chat import Message
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.engines.conversations.asking import Completion, Usage
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.planning.tokens import Counter
from cai_ray.seeding import rng_for

KIND_OF_ROLE = {"critique_request": "critique", "revision_request": "revision", "assistant": "reasoning"}


@dataclass(frozen=True)
class Usages:
    """What engines read and write. Floats, because a sample is scaled up."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0  # of the prompt tokens, those the prefix cache serves
    output_tokens: float = 0.0
    context_tokens: float = 0.0  # of the longest conversation

    def __add__(self, other: Usages) -> Usages:
        return Usages(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            max(self.context_tokens, other.context_tokens),
        )

    def times(self, factor: float) -> Usages:
        return Usages(
            self.requests * factor,
            self.prompt_tokens * factor,
            self.cached_tokens * factor,
            self.output_tokens * factor,
            self.context_tokens,
        )


NO_USE = Usages()


class PrefixCache:
    """Blocks of tokens that were seen, each known by everything before it."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._known: set[int] = set()

    def cached(self, ids: Sequence[int]) -> int:
        """Tokens of `ids` that need not be read; the last one always is."""
        num = 0
        for key in self._keys(ids[:-1]):
            if key not in self._known:
                break
            num += self._block_size
        return num

    def add(self, ids: Sequence[int]) -> None:
        self._known.update(self._keys(ids))

    def _keys(self, ids: Sequence[int]) -> list[int]:
        keys, before = [], 0
        for start in range(0, len(ids) - self._block_size + 1, self._block_size):
            before = hash((before, tuple(ids[start : start + self._block_size])))
            keys.append(before)
        return keys


class PlannedAsk:
    """One conversation's door to nothing: answers of the expected length, counted like an engine's."""

    def __init__(
        self,
        row: Mapping[str, Any],
        counter: Counter,
        model: ModelConfig,
        cache: PrefixCache,
        max_model_len: int,
        kind: str,
    ) -> None:
        self._row, self._counter, self._model, self._cache, self._kind = row, counter, model, cache, kind
        self._rng: random.Random = rng_for(0, "plan", str(row.get("row_id")), kind)
        self._tokens = DialogueTokens(counter.renderer)
        self.max_model_len: int | None = max_model_len
        self.usage = Usage()
        self.num_context_tokens = 0

    def count_tokens(self, messages: Sequence[Message]) -> int:
        renderer = self._counter.renderer
        return len(renderer.encode(renderer.text(renderer.neutralised(messages)[0])))

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        safe, _ = self._counter.renderer.neutralised(messages)
        ids = self._tokens.prompt_ids(safe)
        lengths = self._counter.lengths
        thinking = self._model.thinking
        num_thinking = 0
        if thinking is not None:
            num_thinking = lengths.of("thinking", sampling.model_copy(update={"max_tokens": thinking.max_tokens}))
        wanted = lengths.of(KIND_OF_ROLE.get(messages[-1]["role"], self._kind), sampling)
        text, reply = self._counter.reply(self._rng, wanted - 1)
        if self._kind == "verdict":
            text = f"The answer is ({'BA'[self._shows_a_first(messages)]})"
        self._tokens.add_reply(text, reply, cut_at_stop_string=False)
        return self._count(ids, reply, wanted + num_thinking, text)

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        """The option whose answer is the row's `response_a`, whichever order it is shown in: never a tie."""
        renderer = self._counter.renderer
        ids = renderer.encode(renderer.text(renderer.neutralised(messages)[0]))
        self._count(ids, [], 1, "")
        best = 0 if self._shows_a_first(messages) else 1
        return [-0.2 if number == best else -1.7 for number in range(len(options))]

    def _shows_a_first(self, messages: Sequence[Message]) -> bool:
        shown = next((m["content"] for m in reversed(messages) if m["role"] == "user"), messages[-1]["content"])
        places = [shown.rfind(str(self._row.get(f"response_{side}"))) for side in "ab"]
        return places[0] <= places[1]

    def _count(self, ids: list[int], reply: list[int], num_output: int, text: str) -> Completion:
        completion = Completion(
            text=text,
            finish_reason="stop",
            num_prompt_tokens=len(ids),
            num_cached_tokens=self._cache.cached(ids) if self._model.engine.prefix_caching else 0,
            num_output_tokens=num_output,
        )
        self._cache.add([*ids, *reply])
        self.usage.add(completion)
        self.num_context_tokens = max(self.num_context_tokens, len(ids) + num_output)
        return completion


@dataclass(frozen=True)
class Sample:
    """Rows that stand for more of their kind.

    Attributes:
        weights: how many rows each one stands for, itself included.
    """

    rows: list[dict[str, Any]]
    weights: list[float]

    @property
    def num_rows(self) -> float:
        return sum(self.weights)

    def scaled(self, factor: float) -> Sample:
        return replace(self, weights=[weight * factor for weight in self.weights])


def converse(
    job: ConversationJob,
    sample: Sample,
    schema: pa.Schema | None,
    counter: Counter,
    model: ModelConfig,
    context: int,
    kind: str = "answer",
) -> tuple[Sample, Usages]:
    """Run a stage's own row function over the sample: the rows that come out, and what its engine would do."""
    carried = [{**row, _WEIGHT: weight} for row, weight in zip(sample.rows, sample.weights, strict=True)]
    if schema is not None:
        units = job.expand(pa.Table.from_pylist(carried, schema.append(pa.field(_WEIGHT, pa.float64())))).to_pylist()
    else:
        units = carried
    cache = PrefixCache(model.engine.block_size)
    rows: list[dict[str, Any]] = []
    weights: list[float] = []
    used = Usages()

    async def all_units() -> None:
        nonlocal used
        for unit in units:
            ask = PlannedAsk(unit, counter, model, cache, context, kind)
            try:
                row = await job.converse(unit, ask)
            except DropRow:
                row = None
            usage = ask.usage
            tokens = (usage.num_prompt_tokens, usage.num_cached_tokens, usage.num_output_tokens)
            used = used + Usages(usage.num_requests, *tokens, ask.num_context_tokens).times(unit[_WEIGHT])
            if row is not None:
                rows.append(row)
                weights.append(unit[_WEIGHT])

    asyncio.run(all_units())
    return Sample(rows, weights), used


_WEIGHT = "plan_weight"
