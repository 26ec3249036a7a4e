"""Ask a model for new requests like the ones shown, and read the list it writes.

The paper made 140,335 of its 182,831 red-team prompts this way (section 3.2).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pydantic import Field, field_validator

from cai_ray.chat import Messages
from cai_ray.config import Config


class ExpansionPrompts(Config):
    """How the request for new requests is put to the model."""

    opening: str = Field("Here are some requests:", min_length=1, description="Stands before the numbered list.")
    instruction: str = Field(
        "Write {num_new} new requests like these, one per line.",
        min_length=1,
        description="Stands after the list; {num_new} becomes the number of requests wanted.",
    )
    system: str | None = Field(None, min_length=1, description="System prompt; null: none.")

    @field_validator("instruction")
    @classmethod
    def _says_how_many(cls, instruction: str) -> str:
        if "{num_new}" not in instruction:
            raise ValueError(f"instruction {instruction!r} does not say how many; write {{num_new}} in it")
        return instruction


DEFAULT_PROMPTS = ExpansionPrompts()


def expansion_request(requests: Sequence[str], num_new: int, prompts: ExpansionPrompts = DEFAULT_PROMPTS) -> str:
    """The user's words that ask for `num_new` requests like the given ones.

    Each request takes one line, whatever white space it holds, so that the list shows the format wanted back.
    """
    instruction = prompts.instruction.replace("{num_new}", str(num_new))
    return f"{prompts.opening}\n\n{numbered(requests)}\n\n{instruction}"


def expansion_messages(requests: Sequence[str], num_new: int, prompts: ExpansionPrompts = DEFAULT_PROMPTS) -> Messages:
    """`expansion_request` as messages that wait for the assistant."""
    system = [{"role": "system", "content": prompts.system}] if prompts.system else []
    return [*system, {"role": "user", "content": expansion_request(requests, num_new, prompts)}]


def numbered(requests: Sequence[str]) -> str:
    """The requests as lines "1. ...", "2. ..."."""
    return "\n".join(f"{i}. {' '.join(request.split())}" for i, request in enumerate(requests, start=1))


# "1.", "2)", "(3)", "4:", "**5.**", "-", "*", "•". A number alone is no mark: "3 eggs" is a request.
_MARK = re.compile(r"[ \t]*(?:[*_]{2}\(?\d{1,3}[.):]+[*_]{2}|\(?\d{1,3}[.):]+|[-*+\u2022\u2013])(?=\s|$)[ \t]*")
_WRAPPERS = (("**", "**"), ("__", "__"), ('"', '"'), ("\u201c", "\u201d"), ("'", "'"), ("`", "`"))


def parse_requests(text: str) -> list[str]:
    """The requests in a model's reply; one line each, Unicode NFC, none empty, in order, repeats kept.

    When some lines carry a list mark, those are the requests, with the indented lines below each, and
    all other lines are talk around the list. Otherwise every line is a request, except one that ends in a colon.
    A garbled reply gives [].
    """
    lines = [line for line in unicodedata.normalize("NFC", text).splitlines() if line.strip()]
    marks = [_MARK.match(line) for line in lines]
    if not any(marks):
        found = [line for line in lines if not line.rstrip(" *_").endswith(":")]
    else:
        found, in_item = [], False
        for line, mark in zip(lines, marks, strict=True):
            if mark:
                found.append(line[mark.end() :])
                in_item = True
            elif in_item and line[0].isspace():
                found[-1] += f" {line}"
            else:
                in_item = False
    requests = (_unwrapped(" ".join(request.split())) for request in found)
    return [request for request in requests if any(character.isalnum() for character in request)]


def _unwrapped(request: str) -> str:
    """Without quotation marks or emphasis around the whole of it."""
    for opening, closing in _WRAPPERS:
        inner = request[len(opening) : -len(closing)]
        if (
            len(request) > len(opening) + len(closing)
            and request.startswith(opening)
            and request.endswith(closing)
            and opening not in inner
            and closing not in inner
        ):
            return _unwrapped(inner.strip())
    return request
