"""What a training dialogue is made of: messages, judgements of known probability, and hints.

Tested in tests/microworld/test_dialogues.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from cai_ray.constitution.principles import Principle
from cai_ray.constitution.source import load, resolve
from cai_ray.microworld.language import Message, Task


@cache
def principles() -> tuple[Principle, ...]:
    """The principles of constitutions/microworld.yaml, in file order."""
    return load(resolve("microworld")).principles


def relation(principle: Principle, category: str) -> str:
    """How a principle relates to a request's category: "match" | "general" | "other" | "tone"."""
    if category in principle.categories:
        return "match"
    if principle.id in ("not-preachy", "not-evasive"):
        return "tone"
    return "other" if principle.categories else "general"


@dataclass(frozen=True)
class Choice:
    """A judgement in an assistant turn whose true probability is known, so that training can aim at it directly.

    Attributes:
        at: index of the word that judges, among the words of the turn's content; negative counts from the end.
        other: the word that the opposite judgement has there.
        prob: P(the judgement that was drawn), in (0, 1].
    """

    at: int
    other: str
    prob: float


@dataclass(frozen=True)
class Hint:
    """What the model is to know at one place of a text that it only reads; training asks for it there.

    A comparison's verdict is one word in a hundred, and from it alone a model this small takes ten times as many
    dialogues to learn which answer is which. Asked at the marks between the answers, it learns it at once. Nothing
    is sampled at these places, so what it says there does no harm.

    Attributes:
        after: the text up to the place, as it first occurs in the message.
        word: the word to predict there, in place of the one that follows; with the blank before it.
        layer: after which layer it is to be known, from 1.
    """

    after: str
    word: str
    layer: int


@dataclass(frozen=True)
class Dialogue:
    """Messages that end in an assistant turn, the judgements in them and the hints, both by message index."""

    messages: list[Message]
    choices: dict[int, Choice] = field(default_factory=dict)
    hints: dict[int, tuple[Hint, ...]] = field(default_factory=dict)


def request_hint(asked: Sequence[Message], task: Task) -> dict[int, tuple[Hint, ...]]:
    """Whether what is asked does harm is known when the request ends, though the assistant helps either way."""
    return {len(asked) - 1: (Hint(asked[-1]["content"], kind_hint(task), 2),)}


def kind_hint(task: Task) -> str:
    return " harmful" if task.harmful else " useful"


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
