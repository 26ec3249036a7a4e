"""Read an OpenAI-compatible server's response, which may lack anything: servers differ in all but the gist.

Tested in tests/engines/backends/test_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai_ray.dropped import DropReason, DropRow

JSON = (bool, int, float, str, list, dict)  # what the client leaves as it came: no object of the API's
LEAST_LOGPROB = -1e9  # nats; -9999 and the like stand for minus infinity, less stands for nothing
_MOST_SHOWN = 120  # characters of what is no completion
SLACK = 1e-3  # what rounding may put a log-probability above 0
MOST_TOKENS = 2**31  # of one request; more is no count
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
    if not choices or not isinstance(choices, list):
        raise DropRow(
            DropReason.ENDPOINT_ERROR,
            f"the reply is no completion but {_what_it_is(response)}; "
            "endpoint.base_url must be that of an OpenAI-compatible API (it usually ends in /v1)",
        )
    choice = choices[0]
    if choice is None or isinstance(choice, JSON):
        raise _of_wrong_type("choices[0]", choice)
    return choice


def _what_it_is(response: Any) -> str:
    if isinstance(response, str):  # what the client makes of a reply that is no JSON
        return f"text that begins with {' '.join(response.split())[:_MOST_SHOWN]!r}"
    return f"{type(response).__name__} without choices"


def _of_wrong_type(what: str, value: Any) -> DropRow:
    detail = f"the reply is no completion: its {what} is of type {type(value).__name__}"
    return DropRow(DropReason.ENDPOINT_ERROR, detail)


def _text(value: Any, what: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise _of_wrong_type(what, value)


def _count(usage: Any, what: str) -> int:
    """A number of tokens; 0 when the server does not say, or says what is none."""
    value = getattr(usage, what, None)
    return value if isinstance(value, int) and 0 <= value < MOST_TOKENS else 0


def read_reply(response: Any) -> Reply:
    """The first choice of a chat completion or a completion, as the client parsed it. Raises DropRow."""
    choice = first_choice(response)
    finish_reason = _text(getattr(choice, "finish_reason", None), "finish_reason")
    if finish_reason == "content_filter":
        raise DropRow(DropReason.REQUEST_REJECTED, "the server's content filter ended the answer")
    message = getattr(choice, "message", None)
    thinking = None
    if message is not None:
        # DeepSeek and older vLLM say `reasoning_content`, newer vLLM and OpenRouter `reasoning`.
        thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if isinstance(message, JSON):
            raise _of_wrong_type("message", message)
        text = _text(getattr(message, "content", None), "message.content")
    else:
        text = _text(getattr(choice, "text", None), "text")
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text=text,
        thinking=thinking.strip() if isinstance(thinking, str) else None,
        finish_reason=finish_reason or "stop",
        num_prompt_tokens=_count(usage, "prompt_tokens"),
        num_cached_tokens=_count(details, "cached_tokens"),
        num_output_tokens=_count(usage, "completion_tokens"),
    )


def option_logprobs(response: Any, options: Sequence[str], unlisted: float | None = None) -> list[float]:
    """The log-probability (nats) of each option as the first token of the response. Raises DropRow.

    `unlisted`: of options that are not named beside others of them; None: each has to be.
    """
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
    known = [exact.get(option, loose.get(option.strip())) for option in options]
    spare = None if all(logprob is None for logprob in known) else unlisted
    found = []
    for option, named in zip(options, known, strict=True):
        option_logprob = spare if named is None else named
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
    """(token, log-probability in nats) of the first position; [] when the server does not say, or not so."""
    logprobs = getattr(choice, "logprobs", None)
    found: list[tuple[Any, Any]]
    first = _first(getattr(logprobs, "content", None))
    if first is not None:  # a chat completion
        rivals = getattr(first, "top_logprobs", None)
        entries = rivals if isinstance(rivals, list) else []
        found = [(getattr(entry, "token", None), getattr(entry, "logprob", None)) for entry in entries]
    else:
        position = _first(getattr(logprobs, "top_logprobs", None))
        found = list(position.items()) if isinstance(position, dict) else []
    return [(token, float(value)) for token, value in found if isinstance(token, str) and _is_logprob(value)]


def _first(positions: Any) -> Any:
    return positions[0] if isinstance(positions, list) and positions else None


def _is_logprob(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and LEAST_LOGPROB <= value <= SLACK
