"""An OpenAI-compatible server as a backend: chat completions, or completions of a transcript.

The server's tokenizer is not known here. So tokens cannot be counted beforehand, and markup in a prompt's text is
defused by lists of what is well known (`CONTROL_TOKENS`, `LABELS`) rather than by the server's own template.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from cai_ray.chat import (
    Message,
    chat_messages,
    is_begun,
    neutralised,
    split_thinking,
    stop_strings,
    transcript_prompt,
    with_system_role,
)
from cai_ray.config import EndpointConfig, ModelConfig, SamplingConfig, ThinkingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.endpoint_errors import (
    FirstReplies,
    outcome_of_error,
    start_failure,
)
from cai_ray.engines.backends.endpoint_replies import (
    CHOICES_WANTED,
    Reply,
    first_choice,
    option_logprobs,
    read_reply,
)
from cai_ray.engines.conversations.asking import Completion, Counts, Guard, Unasked
from cai_ray.engines.conversations.outage import Outage
from cai_ray.engines.models.thinking import QUESTION, SHORT, check_first_answer
from cai_ray.errors import ConfigError
from cai_ray.markup import THINK_MARKS, TRANSCRIPT, Markup, longest_first

T = TypeVar("T")
NO_KEY = "no-key"  # the client insists on one; servers without keys ignore it
# Control tokens of the chat templates in use: ChatML, Llama 2-4, Mistral, Gemma, Phi, DeepSeek, Cohere, GPT.
CONTROL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|endofprompt|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|python_tag|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>",
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",  # noqa: RUF001
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>",
)  # fmt: skip
# What chat templates cut earlier answers at, or know a tool's turn by.
TEMPLATE_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", *chain(*THINK_MARKS))
# Turns of the chat templates that have no control tokens: Alpaca, Vicuna and their like.
LABELS = (
    *(f"### {name}:" for name in ("Instruction", "Input", "Response", "System", "User", "Human", "Assistant")),
    "SYSTEM:", "USER:", "ASSISTANT:",
)  # fmt: skip
CHAT_MARKUP = Markup(longest_first([*CONTROL_TOKENS, *TEMPLATE_TAGS]), LABELS)
TRANSCRIPT_MARKUP = Markup(longest_first(CONTROL_TOKENS), TRANSCRIPT)


def markup_of(model: ModelConfig) -> Markup:
    """What may be markup to a server: any well-known chat template's, or that of the transcript we write."""
    return TRANSCRIPT_MARKUP if model.format == "transcript" else CHAT_MARKUP


def api_key(endpoint: EndpointConfig) -> str:
    """The key from the environment. Raises ConfigError when the variable that should hold it is not set."""
    return NO_KEY if endpoint.api_key_env is None else _secret("api_key_env", endpoint.api_key_env)


def headers(endpoint: EndpointConfig) -> dict[str, str]:
    """The server's own headers, from the environment. Raises ConfigError likewise."""
    return {name: _secret(f"headers_env.{name}", variable) for name, variable in endpoint.headers_env.items()}


def _secret(field: str, variable: str) -> str:
    found = os.environ.get(variable)
    if not found:
        raise ConfigError(
            f"endpoint.{field} names the environment variable {variable!r}, which is not set here; "
            f"export it before the run (on a cluster: on every node); for a server without it remove endpoint.{field}"
        )
    return found


def check_endpoint(model: ModelConfig) -> None:
    """What can be wrong before a request is sent. Raises ConfigError."""
    if model.endpoint is None:
        raise ConfigError("the model has no `endpoint`; name a server, or load the model by `path`")
    if model.chat_template is not None:
        raise ConfigError(
            f"chat_template {model.chat_template!r} has no effect on an endpoint, which applies its own; "
            "give it to the server (vLLM: --chat-template) and remove it here"
        )
    api_key(model.endpoint)
    headers(model.endpoint)


class EndpointBackend(Unasked):
    """The client of one server. Raises ConfigError at once when the key is missing."""

    num_kv_tokens: int | None = None

    def __init__(self, model: ModelConfig) -> None:
        check_endpoint(model)
        assert model.endpoint is not None
        self.model = model
        self.endpoint: EndpointConfig = model.endpoint
        self.max_concurrent_rows = model.endpoint.max_concurrency
        self.client: Any = None
        self._slots = asyncio.Semaphore(model.endpoint.max_concurrency)
        self._outage = Outage(model.endpoint.base_url)
        self._last_sent: Callable[[], Awaitable[Any]] | None = None
        self._first = FirstReplies(model.endpoint)

    async def start(self) -> None:
        """Find out whether the server is there (else EngineGaveUp) and takes the key (else ConfigError)."""
        from openai import AsyncOpenAI, OpenAIError

        if self.client is None:
            self.client = AsyncOpenAI(
                base_url=self.endpoint.base_url,
                api_key=api_key(self.endpoint),
                default_headers=headers(self.endpoint),
                max_retries=self.endpoint.max_retries,
                timeout=self.endpoint.timeout_s,
            )
        try:
            await self.client.models.list()
        except (OpenAIError, ValueError) as error:  # ValueError: a reply that is not JSON, from a server that is there
            failure = start_failure(error, self.endpoint)
            if failure is not None:
                raise failure from error

    def kill(self) -> None:
        """Nothing: the server is not ours to end, and every request has its own time limit."""

    async def close(self) -> None:
        """Close the connections."""
        if self.client is not None:
            client, self.client = self.client, None
            await client.close()

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> EndpointConversation:
        return EndpointConversation(self, seed_of, guard, row_id)

    async def send(self, key: str, is_chat: bool, options: dict[str, Any], extra: dict[str, Any]) -> Any:
        """The server's response to one request; `key` tells it from all others of the stage."""
        call = self.client.chat.completions.create if is_chat else self.client.completions.create
        return await call(model=self.endpoint.model, extra_body=extra or None, **options)

    async def first_answer(self, guard: Guard) -> str | None:
        """Asked where the recipe says that the model thinks: elsewhere each request may cost, and marks are cleaned."""
        thinking = self.model.thinking
        if thinking is None:
            return None
        reply = await EndpointConversation(self, lambda number: 0, guard).short_reply()
        if reply.thinking is not None:  # split off by the server
            return None
        return check_first_answer(self.endpoint.base_url, thinking, reply.text, reply.finish_reason != "length")

    async def check_answers(self) -> None:
        """Raises EngineGaveUp when the server answers nobody: a row whose time is up is then not to blame."""
        if self._last_sent is not None:
            await self._outage.is_lost_alone(self._last_sent, "no reply within a row's time")

    async def request(self, send: Callable[[], Awaitable[T]], check: Callable[[T], object] = first_choice) -> T:
        """One request with its retries. Raises DropRow; EngineGaveUp or ConfigError if all would fare so.

        `check` raises DropRow for a reply that is none.
        """
        from openai import APIConnectionError, APIStatusError, OpenAIError

        async def sent() -> T:
            result = await send()
            check(result)
            return result

        self._last_sent = sent
        while True:
            self._outage.check()
            try:
                async with self._slots:
                    result = await sent()
            except (OpenAIError, ValueError, DropRow) as error:
                outcome = self.drop_of(error)
                is_lost = outcome.reason == DropReason.ENDPOINT_ERROR
                if is_lost and not isinstance(error, APIConnectionError | APIStatusError):
                    # No completion, from a server that is there: it costs its own row.
                    await self._first.weigh_unreadable(outcome)
                    is_lost = False
                if not is_lost or await self._outage.is_lost_alone(sent, outcome.detail):
                    raise outcome from error
            else:
                self._outage.answered(sent)
                self._first.answered()
                return result

    def drop_of(self, error: Exception) -> DropRow:
        """What a request that failed so says of its row. Raises EngineGaveUp or ConfigError if all would fare so."""
        outcome = error if isinstance(error, DropRow) else outcome_of_error(error, self.endpoint)
        if not isinstance(outcome, DropRow):
            raise outcome from error
        if outcome.reason == DropReason.REQUEST_REJECTED:
            self._first.weigh_refusal(error, outcome)
        return outcome


class EndpointConversation(Counts):
    """One row's Ask on an EndpointBackend."""

    def __init__(self, backend: EndpointBackend, seed_of: Callable[[int], int], guard: Guard, row_id: str = "") -> None:
        super().__init__()
        self._backend, self._seed_of, self._guard, self._row_id = backend, seed_of, guard, row_id
        self._num_asked = self._num_sent = 0

    @property
    def max_model_len(self) -> int | None:
        return self._backend.model.max_model_len

    def count_tokens(self, messages: Sequence[Message]) -> None:
        """None: the server's tokenizer is not known here."""

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        """Answer the messages; ones that end in an assistant turn are continued (vLLM and its like only).

        A reasoning model gets its thinking budget on top of `max_tokens`, for a server does not part the two, and
        `stop` ends its answer and not its thought. When it has answered at once, and longer than an answer may be, it
        is asked again with the answer's own budget.
        """
        number, self._num_asked = self._num_asked, self._num_asked + 1
        thinking = self._backend.model.thinking
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            options["seed"] = self._seed_of(number)
        if sampling.top_p < 1:
            options["top_p"] = sampling.top_p
        # Not OpenAI's; vLLM and its like know them.
        known_to_some = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        extra = {name: given for name, off in known_to_some.items() if (given := getattr(sampling, name)) != off}
        stop = stop_strings(sampling.stop, self._backend.model.format)
        plain = options | ({"stop": list(stop)} if stop else {})
        more = options | {"max_tokens": sampling.max_tokens + thinking.max_tokens} if thinking else plain
        response, num_neutralised = await self._send(messages, more, extra)
        reply, num_output_tokens = read_reply(response), 0
        if thinking is not None:
            reply = _split(reply, thinking)
            is_long = reply.num_output_tokens > sampling.max_tokens or reply.finish_reason == "length"
            if reply.thinking is None and is_long:
                num_output_tokens = reply.num_output_tokens
                reply = read_reply((await self._send(messages, plain, extra))[0])
            reply = _ended(reply, stop)
        completion = Completion(
            text=reply.text.strip(),
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            num_prompt_tokens=reply.num_prompt_tokens,
            num_cached_tokens=reply.num_cached_tokens,
            num_output_tokens=num_output_tokens + reply.num_output_tokens,
            num_neutralised=num_neutralised,
            thinking=reply.thinking,
        )
        self.account(completion)
        return completion

    async def short_reply(self) -> Reply:
        """To QUESTION, as the server gives it."""
        options = {"max_tokens": SHORT.max_tokens, "temperature": SHORT.temperature}
        return read_reply((await self._send(QUESTION, options, {}))[0])

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        """Log-probabilities (nats) of each option as the next token, by one token and its likeliest rivals.

        Raises DropRow: NO_LOGPROBS when the server gives no log-probabilities, UNPARSABLE when an
        option (with `unlisted`: when every option) is not among the likeliest tokens.
        """
        self._num_asked += 1
        # Temperature 1, because some servers report log-probabilities after scaling by it.
        asked: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0}
        if self._backend.model.format == "chat":
            asked |= {"logprobs": True, "top_logprobs": CHOICES_WANTED}
        else:
            asked |= {"logprobs": CHOICES_WANTED}
        response, _ = await self._send(messages, asked, {})
        found = option_logprobs(response, options, unlisted)
        reply = read_reply(response)
        self.account_read(reply.num_prompt_tokens, reply.num_cached_tokens, num_output_tokens=1)
        return found

    async def _send(
        self, messages: Sequence[Message], options: dict[str, Any], extra: dict[str, Any]
    ) -> tuple[Any, int]:
        """The server's response, and the pieces of markup defused in the messages."""
        model, endpoint = self._backend.model, self._backend.endpoint
        safe, num_neutralised = neutralised(with_system_role(messages, model.system_role), markup_of(model))
        options, extra = renamed(options, extra, endpoint.parameters)
        is_chat = model.format != "transcript"
        if not is_chat:
            options = options | {"prompt": transcript_prompt(safe)}
        else:
            options = options | {"messages": chat_messages(safe)}
            if model.chat_template_kwargs:
                extra = extra | {"chat_template_kwargs": model.chat_template_kwargs}
            if is_begun(messages):
                extra = extra | {"continue_final_message": True, "add_generation_prompt": False}
        extra = extra | endpoint.extra_body
        key, self._num_sent = f"{self._row_id}/{self._num_sent}", self._num_sent + 1

        async def send() -> Any:
            return await self._backend.request(lambda: self._backend.send(key, is_chat, options, extra))

        return await self._guard(send), num_neutralised


def _split(reply: Reply, thinking: ThinkingConfig) -> Reply:
    """The reply with its thought apart, where the server has not split it off already."""
    if reply.thinking is not None:
        return reply
    thought, text = split_thinking(reply.text, thinking)
    return replace(reply, thinking=thought, text=text)


def _ended(reply: Reply, stop: Sequence[str]) -> Reply:
    """The reply up to the first stop string in its answer."""
    at = min((found for end in stop if (found := reply.text.find(end)) >= 0), default=None)
    return reply if at is None else replace(reply, text=reply.text[:at], finish_reason="stop")


def renamed(
    options: dict[str, Any], extra: dict[str, Any], names: Mapping[str, str | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request's parameters by the server's own names; those without a name there are left out.

    `options` are what the client knows, `extra` goes along as it is.
    """
    kept = {name: value for name, value in options.items() if name not in names}
    given = {to: value for name, value in (options | extra).items() if (to := names.get(name)) is not None}
    return kept, {name: value for name, value in extra.items() if name not in names} | given
