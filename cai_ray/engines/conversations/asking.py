"""The only doors to a model: `ask(messages, sampling)` and `ask.choose(messages, options)`.

Behind them stands a vLLM engine in an actor pool, an OpenAI-compatible endpoint, or a scripted fake in
a test. A stage never knows which.

Tested in tests/engines/conversations/test_generation.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cai_ray.artifacts.storage import Storage
from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.engines.conversations.sampled import Sampled


@dataclass(frozen=True)
class Completion:
    """One answer. `text` holds no control tokens, no stop string and no thinking."""

    text: str
    finish_reason: str  # "stop" | "length"
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt tokens, those the prefix cache served
    num_output_tokens: int = 0
    num_neutralised: int = 0  # control tokens defused in the prompt's contents
    thinking: str | None = None
    # Of the answer's tokens, nats, at temperature 1 and before any cut; None where they were not wanted or not given.
    logprobs: tuple[float, ...] | None = None


@dataclass
class Usage:
    """Tokens of one conversation, summed over its requests."""

    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)  # what the row's dialogue counts besides

    def add(self, completion: Completion) -> None:
        self.num_requests += 1
        self.num_prompt_tokens += completion.num_prompt_tokens
        self.num_cached_tokens += completion.num_cached_tokens
        self.num_output_tokens += completion.num_output_tokens
        self.finish_reasons.append(completion.finish_reason)


class Ask(Protocol):
    """One conversation's door to the model."""

    usage: Usage  # of this conversation so far

    @property
    def max_model_len(self) -> int | None:
        """The context, tokens; None when the server does not tell."""

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        """Answer the messages. Raises DropRow when this row cannot be answered."""

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        """Log-probabilities (nats) of each option as the next token; messages end in a partial
        assistant turn. Raises DropRow when the server does not give them.

        `unlisted`: of options that a server does not name beside others of them; None: that drops the row."""

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        """Tokens of the rendered prompt; None when the server's tokenizer is not known here."""


class Counts:
    """The books of one conversation, for the engine's own; what every backend's conversations begin with."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.num_context_tokens = 0  # prompt and answer of the longest request so far
        self.num_shared_tokens = 0  # of these, the prefix that the cache already held when the conversation began
        self.wants_logprobs = False  # of the answers' tokens; they cost an engine time
        self.sampled: Sampled | None = None  # the first answer, where log-probabilities were wanted and given

    def account(self, completion: Completion) -> None:
        """One answered request."""
        if self.usage.num_requests == 0:
            self.num_shared_tokens = completion.num_cached_tokens
        self.usage.add(completion)
        num_tokens = completion.num_prompt_tokens + completion.num_output_tokens
        self.num_context_tokens = max(self.num_context_tokens, num_tokens)

    def account_read(self, num_tokens: int, num_cached_tokens: int = 0, num_output_tokens: int = 0) -> None:
        """One request whose answer is no text."""
        self.account(Completion("", "stop", num_tokens, num_cached_tokens, num_output_tokens))


class EngineDied(Exception):
    """The engine is gone with every request in flight; the supervisor starts a new one."""


# Sends one request through a supervisor, which retries it on a new engine when the engine dies.
Guard = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Backend(Protocol):
    """What a supervisor needs of an engine. One per actor; requests are concurrent."""

    max_concurrent_rows: int  # an upper bound, before the KV cache is considered
    num_kv_tokens: int | None  # capacity of the KV cache, known after start; None when there is none to mind

    async def start(self) -> None:
        """Start, or start anew after `kill`."""

    def kill(self) -> None:
        """End the engine's processes at once; requests in flight raise EngineDied."""

    async def probe(self) -> None:
        """One harmless request of one token. Raises EngineDied when even that kills the engine."""

    async def first_answer(self, guard: Guard) -> str | None:
        """One short answer before all others, where it tells whether the model thinks as the recipe says.

        The counter of what it leaves open; None: nothing. Raises ConfigError where it contradicts the recipe.
        """

    async def check_answers(self) -> None:
        """After a row's time was up: raises EngineGaveUp when nobody is answered, whatever the row."""

    def keep_in(self, folder: Storage) -> None:
        """Before the start: the stage's folder, for what must be found again when the actor is gone."""

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> Conversation:
        """A conversation whose request k samples with seed_of(k); every request goes through `guard`."""


class Unasked:
    """What a Backend does that has nothing to be asked besides its rows; those that have override it."""

    async def probe(self) -> None:
        """It starts by answering."""

    async def check_answers(self) -> None:
        """The supervisor ends an engine that answers nobody."""

    async def first_answer(self, guard: Guard) -> str | None:
        """It does not think."""
        return None

    def keep_in(self, folder: Storage) -> None:
        """Nothing outlives it."""


class Conversation(Ask, Protocol):
    """An Ask that keeps `Counts`."""

    num_context_tokens: int
    num_shared_tokens: int
    wants_logprobs: bool
    sampled: Sampled | None
