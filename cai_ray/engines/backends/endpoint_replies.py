"""Read an OpenAI-compatible server's response, which may lack anything: servers differ in all but the gist.

Tested in tests/engines/backends/test_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai_ray.dropped import DropReason, DropRow

CHOICES_WANTED = 20  # rivals of the next token; what OpenAI and vLLM give at most by default


@dataclass(frozen=True)
class Reply:
    """One response's content."""

    text: str
    thinking: str | None  # where the server has split it off already
    finish_reason: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


def first_choice(response: Any) -> Any:
    """Raises DropRow(ENDPOINT_ERROR) when the response is no completion."""
    choices = getattr(response, "choices", None)
    if not choices:
        raise DropRow(
            DropReason.ENDPOINT_ERROR,
            f"the reply is no completion but {type(response).__name__} without choices; "
            "endpoint.base_url must be that of an OpenAI-compatible API (it usually ends in /v1)",
        )
    return choices[0]


def read_reply(response: Any) -> Reply:
    """The first choice of a chat completion or a completion, as the client parsed it. Raises DropRow."""
    choice = first_choice(response)
    if choice.finish_reason == "content_filter":
        raise DropRow(DropReason.REQUEST_REJECTED, "the server's content filter ended the answer")
    message = getattr(choice, "message", None)
    thinking = None
    if message is not None:
        # DeepSeek and older vLLM say `reasoning_content`, newer vLLM and OpenRouter `reasoning`.
        thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        text = message.content
    else:
        text = getattr(choice, "text", None)
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text=text or "",
        thinking=thinking.strip() if isinstance(thinking, str) else None,
        finish_reason=choice.finish_reason or "stop",
        num_prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        num_cached_tokens=getattr(details, "cached_tokens", None) or 0,
        num_output_tokens=getattr(usage, "completion_tokens", None) or 0,
    )


def option_logprobs(response: Any, options: Sequence[str]) -> list[float]:
    """The log-probability (nats) of each option as the first token of the response. Raises DropRow."""
    likeliest = _likeliest(first_choice(response))
    if not likeliest:
        raise DropRow(
            DropReason.NO_LOGPROBS,
            "the server gives no log-probabilities, which choosing between options needs; "
            "ask one that does (vLLM does), or load the model by `path`",
        )
    exact: dict[str, float] = {}
    loose: dict[str, float] = {}  # " A" for "A", where no token is exactly "A"
    for token, logprob in likeliest:
        exact[token] = max(logprob, exact.get(token, logprob))
        loose[token.strip()] = max(logprob, loose.get(token.strip(), logprob))
    found = []
    for option in options:
        option_logprob = exact.get(option, loose.get(option.strip()))
        if option_logprob is None:
            raise DropRow(
                DropReason.UNPARSABLE,
                f"option {option!r} is not among the {len(likeliest)} likeliest next tokens the server names; "
                "the model does not follow the format: use options of one token, another model, "
                "or load this one by `path`, where any token can be asked for",
            )
        found.append(option_logprob)
    return found


def _likeliest(choice: Any) -> list[tuple[str, float]]:
    """(token, log-probability in nats) of the first position; [] when the server does not say."""
    logprobs = getattr(choice, "logprobs", None)
    content = getattr(logprobs, "content", None)
    if content:  # a chat completion
        return [(entry.token, entry.logprob) for entry in content[0].top_logprobs or []]
    positions = getattr(logprobs, "top_logprobs", None)
    return list(positions[0].items()) if positions and positions[0] else []
