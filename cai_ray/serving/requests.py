"""What a client may ask of a served model: OpenAI's chat completions and scores, read strictly.

Fields and defaults are those of OpenAI's chat completions API. A field that this server does not act on is refused
by name, never ignored: a client that sends `tools` must not take a plain answer for a considered one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from cai_ray.chat import Message
from cai_ray.config import Config

MAX_STOPS = 16


class Limits(Config):
    """What one client request may cost."""

    body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body; a larger one is answered 413.")
    max_tokens: int = Field(4096, ge=1, description="Most new tokens per answer; asking for more is answered 400.")
    queued_requests: int = Field(
        256, ge=0, description="Requests that may wait per replica beyond engine.max_num_seqs; further ones: 429."
    )
    request_time_limit_s: float = Field(600.0, gt=0, description="Past this a request ends with an error (504).")


class ApiError(Exception):
    """An error as the client is told it, in OpenAI's layout."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class AnswerOptions:
    """How one answer is sampled. Temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps all
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None  # alternatives per token beside its own log-probability; None: no log-probabilities


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Null is how clients say "not given"."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class TextPart(_Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None  # accepted, and not shown to the model: its chat template knows no names

    def plain(self) -> Message:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    include_usage: bool = False


class ResponseFormat(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    """A body of /v1/chat/completions; `top_k` is an extension."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    stop: str | list[str] = Field(default_factory=list)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] = 1
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    response_format: ResponseFormat | None = None
    user: str | None = None  # for the client's own books
    metadata: dict[str, str] | None = None  # likewise

    @field_validator("stop")
    @classmethod
    def _usable_stops(cls, stop: str | list[str]) -> list[str]:
        stops = [stop] if isinstance(stop, str) else stop
        if len(stops) > MAX_STOPS or not all(stops):
            raise ValueError(f"at most {MAX_STOPS} strings, none of them empty")
        return stops

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self

    @property
    def plain_messages(self) -> list[Message]:
        return [message.plain() for message in self.messages]

    def options(self, limits: Limits) -> AnswerOptions:
        """How to sample. Raises ApiError 400 for more tokens than the server gives."""
        wanted = self.max_completion_tokens or self.max_tokens
        if wanted is not None and wanted > limits.max_tokens:
            param = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise ApiError(
                400, f"{param} = {wanted}: this server gives at most {limits.max_tokens}; ask for less", param=param
            )
        return AnswerOptions(
            max_tokens=wanted or limits.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop),
            seed=self.seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class ScoreRequest(_Strict):
    """A body of /v1/score: `messages` that end in the answer to score, or `prompt` and `response`."""

    model: str
    messages: list[ChatMessage] | None = Field(None, min_length=2)
    prompt: str | list[ChatMessage] | None = None
    response: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ScoreRequest:
        if (self.messages is None) == (self.prompt is None) or (self.prompt is None) != (self.response is None):
            raise ValueError("give either messages, or prompt and response")
        if self.messages is not None and self.messages[-1].role != "assistant":
            raise ValueError("messages end in the assistant's turn that is to be scored")
        if isinstance(self.prompt, list) and not (self.prompt and self.prompt[-1].role == "user"):
            raise ValueError("prompt is a text, or messages that end in the user's turn")
        return self

    @property
    def conversation(self) -> tuple[list[Message], str]:
        """(messages before the answer, the answer)."""
        if self.messages is not None:
            *before, answer = (message.plain() for message in self.messages)
            return before, answer["content"]
        if isinstance(self.prompt, list):
            return [message.plain() for message in self.prompt], self.response or ""
        return [{"role": "user", "content": self.prompt or ""}], self.response or ""


R = TypeVar("R", ChatRequest, ScoreRequest)


def read_request(kind: type[R], body: bytes) -> R:
    """The validated request. Raises ApiError 400 that names every mistake and, as `param`, the first field."""
    try:
        data = from_json(body)  # refuses lone surrogates and endless nesting, unlike the json module
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(400, f"the body is a JSON {type(data).__name__}; send an object with `model` and `messages`")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        mistakes = [_explain(dict(mistake), kind) for mistake in error.errors(include_url=False)]
        first = ".".join(str(part) for part in error.errors()[0]["loc"][:1]) or None
        raise ApiError(400, "; ".join(dict.fromkeys(mistakes)), param=first) from None


def _explain(mistake: dict[str, Any], kind: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    rule = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        known = f"; it knows {', '.join(kind.model_fields)}" if len(mistake["loc"]) == 1 else ""
        return f"{where}: this server does not act on it{known}"
    if mistake["type"] == "missing":
        return f"{where}: required"
    value = repr(mistake["input"])
    return f"{where} = {value if len(value) <= 80 else value[:77] + '...'}: {rule}" if where else rule
