"""A backend that answers from a function: for tests of logic and faults, and to measure what is not the engine.

Tested in tests/engines/conversations/test_generation.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.engines.conversations.asking import Completion, Counts, Guard, Unasked

# (row id, messages, seed) -> the answer; may be a coroutine function, may raise DropRow or EngineDied
Script = Callable[[str, Sequence[Message], int], str | Awaitable[str]]


class ScriptedBackend(Unasked):
    """Answers at once, or as the script says. Tokens are counted as words."""

    max_concurrent_rows = 1024

    def __init__(self, script: Script, num_kv_tokens: int | None = None, max_model_len: int | None = None) -> None:
        self.script = script
        self.num_kv_tokens = num_kv_tokens
        self.max_model_len = max_model_len
        self.num_starts = 0
        self.num_kills = 0

    async def start(self) -> None:
        self.num_starts += 1

    def kill(self) -> None:
        self.num_kills += 1

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> ScriptedConversation:
        return ScriptedConversation(self, row_id, seed_of, guard)


class ScriptedConversation(Counts):
    """One row's Ask on a ScriptedBackend."""

    def __init__(self, backend: ScriptedBackend, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> None:
        super().__init__()
        self._backend, self._row_id, self._seed_of, self._guard = backend, row_id, seed_of, guard
        self._num_asked = 0

    @property
    def max_model_len(self) -> int | None:
        return self._backend.max_model_len

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        seed = self._seed_of(self._num_asked)
        self._num_asked += 1

        async def send() -> str:
            answer: Any = self._backend.script(self._row_id, messages, seed)
            return await answer if inspect.isawaitable(answer) else answer

        text = await self._guard(send)
        completion = Completion(
            text=text,
            finish_reason="stop",
            num_prompt_tokens=self.count_tokens(messages),
            num_output_tokens=len(text.split()),
        )
        self.account(completion)
        return completion

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        """The script's answer names the option: 0 nats for it, -20 for the others."""
        chosen = (await self(messages, SamplingConfig())).text
        return [0.0 if option == chosen else -20.0 for option in options]
