"""What a served model answers: OpenAI's chat completion, its chunks for streaming, and scores.

Tested in tests/serving/test_app.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STREAM_END = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer; log-probabilities are nats."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()  # the likeliest (token, log-probability), best first


@dataclass(frozen=True)
class Delta:
    """What came since the last one; an answer in one piece is a single delta."""

    text: str
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt tokens, those the prefix cache served
    num_output_tokens: int  # so far
    finish_reason: str | None = None  # "stop" | "length", on the last one
    logprobs: tuple[TokenLogprob, ...] | None = None
    thinking: str = ""  # of a reasoning model; not part of `text`


@dataclass(frozen=True)
class Reply:
    """What all messages of one reply share."""

    id: str
    model: str
    created: int  # Unix time, s

    def completion(self, answer: Delta) -> dict[str, Any]:
        """A chat.completion object."""
        thinking = {"reasoning_content": answer.thinking} if answer.thinking else {}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, **thinking},
            "logprobs": _logprobs(answer.logprobs),
            "finish_reason": answer.finish_reason,
        }
        return self._body("chat.completion", [choice]) | {"usage": usage(answer)}

    def first_chunk(self) -> bytes:
        """The event that opens a stream: the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, delta: Delta) -> bytes:
        """The event of one delta."""
        new = {"reasoning_content": delta.thinking, "content": delta.text}
        return self._chunk({key: text for key, text in new.items() if text}, delta.finish_reason, delta.logprobs)

    def usage_chunk(self, last: Delta) -> bytes:
        """The event with the token counts, which has no choices (`stream_options.include_usage`)."""
        return event(self._body("chat.completion.chunk", []) | {"usage": usage(last)})

    def score(self, value: float, num_tokens: int) -> dict[str, Any]:
        """The reply of /v1/score; the score is the model's raw output, unbounded."""
        return {
            "id": self.id,
            "object": "score",
            "created": self.created,
            "model": self.model,
            "score": value,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    def _chunk(
        self,
        delta: dict[str, str],
        finish_reason: str | None = None,
        logprobs: Sequence[TokenLogprob] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}
        return event(self._body("chat.completion.chunk", [choice]))

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def usage(answer: Delta) -> dict[str, Any]:
    """Token counts in OpenAI's words."""
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_output_tokens,
        "total_tokens": answer.num_prompt_tokens + answer.num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.num_cached_tokens},
    }


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {
        "content": [
            _token(token.token, token.logprob) | {"top_logprobs": [_token(*other) for other in token.alternatives]}
            for token in tokens
        ]
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    # JSON knows no infinity; OpenAI writes -9999 for a token that cannot be.
    value = logprob if math.isfinite(logprob) else -9999.0
    return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "replace"))}
