"""An Ask for tests of row coroutines: answers from a function, remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.engines.conversations.asking import Completion, Usage


class ScriptedAsk:
    def __init__(
        self,
        script: Callable[[Sequence[Message]], str | Completion],
        max_model_len: int | None = None,
        logprobs: Callable[[Sequence[Message]], list[float]] | None = None,
    ) -> None:
        self.script, self.logprobs = script, logprobs
        self.max_model_len = max_model_len
        self.usage = Usage()
        self.asked: list[list[Message]] = []
        self.samplings: list[SamplingConfig] = []
        self.compared: list[list[Message]] = []

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        answer = self.script(messages)
        return Completion(text=answer, finish_reason="stop") if isinstance(answer, str) else answer

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        assert self.logprobs is not None
        self.compared.append(list(messages))
        return self.logprobs(messages)
