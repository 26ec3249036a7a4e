"""What an OpenAI-compatible server's error means: this row ends, or the run does.

Tested in tests/engines/backends/test_endpoint.py.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

from cai_ray.config import EndpointConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError, EngineGaveUp

# How servers say that a prompt is too long: OpenAI and vLLM, llama.cpp, text-generation-inference, others.
_TOO_LONG = re.compile(
    r"context[ _]?(?:length|size|window)|exceeds? the (?:available|maximum) context|maximum (?:model|sequence) length"
    r"|tokens.{0,40}must be <=|prompt is too long|too many (?:input )?tokens",
    re.IGNORECASE,
)
# A provider that refuses this prompt for what it says, which some do with the status for "forbidden".
_MODERATED = re.compile(r"moderation|flagged|content (?:policy|filter)|content_filter", re.IGNORECASE)
# Parameters that a request may carry; a refusal that names one refuses it in every request.
_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "top_logprobs",
    "logprobs",
    "continue_final_message",
    "add_generation_prompt",
)
_MODEL = re.compile(
    r"\bmodel\b.{0,80}(?:not|unknown|unsupported|invalid)|(?:no such|unknown|invalid) model", re.IGNORECASE
)
ALIKE = 3  # rows that fare alike before any was answered: it is not their prompts
HELD_S = 2.0  # until others tell whether a first reply that is no completion is its row's fault or the server's
_MAX_DETAIL = 300  # characters of the server's own words


class RefusedLine(ValueError):
    """One request of a batch that ended with another status than 200; what the client raises for one that is alone."""

    def __init__(self, status_code: int, body: Any) -> None:
        self.status_code = status_code
        self.body = body if isinstance(body, dict) else {"message": str(body)}
        self.code = self.body.get("code")
        super().__init__(self.body.get("message") or self.body)


def outcome_of_error(error: Exception, endpoint: EndpointConfig) -> DropRow | EngineGaveUp | ConfigError:
    """What to raise for `error`, which the client let through after its retries."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    num_sent = endpoint.max_retries + 1
    if isinstance(error, APITimeoutError):
        detail = f"no reply within timeout_s={endpoint.timeout_s:g}"
        return DropRow(DropReason.ENDPOINT_ERROR, detail, num_sent)
    if isinstance(error, APIConnectionError):
        return DropRow(DropReason.ENDPOINT_ERROR, f"no connection: {_words(error)}", num_sent)
    if not isinstance(error, APIStatusError | RefusedLine):  # a 200 that is no JSON: the client does not retry it
        return DropRow(DropReason.ENDPOINT_ERROR, f"the reply cannot be read: {type(error).__name__}: {_words(error)}")
    status, said = error.status_code, _words(error)
    if status == 403 and _MODERATED.search(said):
        return DropRow(DropReason.REQUEST_REJECTED, f"status 403: {said}")
    if error.code == "insufficient_quota":
        return EngineGaveUp(configuration_fault(status, said, endpoint))
    if status in (401, 403, 404):
        return ConfigError(configuration_fault(status, said, endpoint))
    if status in (400, 413, 422) and (error.code == "context_length_exceeded" or _TOO_LONG.search(said)):
        return DropRow(DropReason.TOO_LONG, f"status {status}: {said}")
    if status >= 500 or status in (408, 409, 429):
        return DropRow(DropReason.ENDPOINT_ERROR, f"status {status}: {said}", num_sent)
    return DropRow(DropReason.REQUEST_REJECTED, f"status {status}: {said}")


def start_failure(error: Exception, endpoint: EndpointConfig) -> EngineGaveUp | ConfigError | None:
    """Why a server that answered the list of its models with `error` is no use; None when it may be.

    Many servers have no such list, so only a refused key or no answer at all speaks against them.
    """
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIConnectionError):
        return EngineGaveUp(
            f"no server answers at endpoint.base_url {endpoint.base_url} ({_words(error)}, "
            f"{endpoint.max_retries + 1} tries); start it, or correct the address, which usually ends in /v1"
        )
    if isinstance(error, APIStatusError) and error.status_code == 401:
        return ConfigError(configuration_fault(error.status_code, _words(error), endpoint))
    return None


def refused_parameter(error: Exception) -> str | None:
    """The parameter, or "model", that a refused request was refused for; None when the server names none."""
    body: Any = getattr(error, "body", None)
    named, said = (body.get("param") if isinstance(body, dict) else None), _words(error)
    if isinstance(named, str) and named in (*_PARAMETERS, "model"):
        return named
    for name in _PARAMETERS:
        if re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", said) and (
            "_" in name or re.search(rf"[`'\"]{name}[`'\"]", said) or "param" in said.lower()
        ):
            return name
    return "model" if _MODEL.search(said) else None


def refusal_fault(detail: str, name: str | None, endpoint: EndpointConfig) -> str:
    """One message for a server that refuses every request."""
    if name == "model":
        fix = f"correct endpoint.model, now {endpoint.model!r}"
    elif name is not None:
        fix = (
            f"leave {name} out with endpoint.parameters: {{{name}: null}}, or give it the server's own name, as in "
            "endpoint.parameters: {max_tokens: max_completion_tokens}"
        )
    else:
        fix = (
            "no request was answered yet and all were refused alike; correct endpoint.model or endpoint.base_url, or "
            "rename or leave out a parameter with endpoint.parameters"
        )
    return f"{endpoint.base_url} refuses the requests ({detail}): {fix}"


class FirstReplies:
    """What a server says before it has answered anybody: whether it would say so to everybody."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self._endpoint = endpoint
        self._has_answered = False
        self._refusals: list[str] = []  # in which words
        self._num_unreadable = 0
        self._is_settled = asyncio.Event()  # whether the server speaks the API at all

    def answered(self) -> None:
        """What goes wrong from here on is a row's own fault."""
        self._has_answered = True
        self._is_settled.set()

    def weigh_refusal(self, error: Exception, refusal: DropRow) -> None:
        """Raises ConfigError for a refusal that says that every request would be refused."""
        if self._has_answered or isinstance(error, DropRow):
            return
        name = refused_parameter(error)
        self._refusals.append(refusal.detail)
        if name is not None or self._refusals.count(refusal.detail) >= ALIKE:
            raise ConfigError(refusal_fault(refusal.detail, name, self._endpoint)) from error

    async def weigh_unreadable(self, outcome: DropRow) -> None:
        """Raises ConfigError when several rows are sent what is no completion."""
        if self._has_answered:
            return
        self._num_unreadable += 1
        if self._num_unreadable >= ALIKE:
            self._is_settled.set()
        with suppress(TimeoutError):  # a row that is asked alone is not held for long
            await asyncio.wait_for(self._is_settled.wait(), HELD_S)
        if self._num_unreadable >= ALIKE and not self._has_answered:
            raise ConfigError(unreadable_fault(outcome.detail, self._endpoint)) from outcome


def unreadable_fault(detail: str, endpoint: EndpointConfig) -> str:
    """One message for a server whose every reply is no completion."""
    return (
        f"{endpoint.base_url} has answered no request yet ({detail}): it does not speak OpenAI's API there; correct "
        "endpoint.base_url, which usually ends in /v1"
    )


def configuration_fault(status: int, said: str, endpoint: EndpointConfig) -> str:
    """One message for a refusal that every other request would meet, too."""
    key = f"the key in ${endpoint.api_key_env}" if endpoint.api_key_env else "no key (endpoint.api_key_env is not set)"
    fix = {
        401: f"the server does not take {key}; correct it",
        403: f"{key} may not use model {endpoint.model!r}; correct endpoint.model or the key's rights",
        404: f"there is no model {endpoint.model!r} or no such path; correct endpoint.model or endpoint.base_url "
        "(which usually ends in /v1)",
    }.get(status, "the account's quota is used up; raise it, then run the same command again")
    return f"{endpoint.base_url} answered status {status} ({said}): {fix}"


def _words(error: Exception) -> str:
    """The server's own message, without the client's wrapping; the first words of it."""
    body: Any = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error).split())[:_MAX_DETAIL]
