"""Ways to put one round of self-critique to a model: what each step's prompt holds.

The small-model study (arXiv 2503.17365) and its code swap the system prompt at each step, ask "In a few words, ", and
let one conversation grow; its figures move with each of these, so they are an axis here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from cai_ray.chat import Message, Messages
from cai_ray.constitution.principles import Principle
from cai_ray.prompts.revision import critique_turn, initial_messages, revision_turn

FormatName = Literal["plain", "system_per_step", "few_words", "answer_alone", "fresh"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
FEW_WORDS = "In a few words, "
ASSISTANT = "You are an assistant that answers the user's requests."
EVALUATOR = "You are an ethical evaluator: you say what is harmful, unethical, dangerous or illegal in an answer."


class Format(NamedTuple):
    """One way.

    Attributes:
        prefix: goes before the last request, whose first letter is lowered.
        systems: system prompts of answer, critique and revision; None: the conversation's own.
        grows: each step sees the steps before it as turns; else each is a conversation of its own that quotes them.
        sees_request: the critique sees what was asked, not the answer alone.
    """

    prefix: str = ""
    systems: tuple[str | None, str | None, str | None] = (None, None, None)
    grows: bool = True
    sees_request: bool = True


KNOWN: dict[FormatName, Format] = {
    "plain": Format(),
    "system_per_step": Format(systems=(ASSISTANT, EVALUATOR, ASSISTANT)),
    "few_words": Format(prefix=FEW_WORDS, systems=(ASSISTANT, EVALUATOR, ASSISTANT)),
    "answer_alone": Format(sees_request=False),
    "fresh": Format(grows=False),
}


def asked(messages: Sequence[Message], form: Format) -> Messages:
    """The conversation as the format asks it."""
    *before, last = messages
    request = last["content"]
    if form.prefix:
        request = f"{form.prefix}{request[:1].lower()}{request[1:]}"
    return [*before, {**last, "content": request}]


def answer_step(messages: Sequence[Message], form: Format) -> Messages:
    """Asks for the answer."""
    return initial_messages(asked(messages, form), form.systems[0], [])


def critique_step(messages: Sequence[Message], form: Format, answer: str, principle: Principle) -> Messages:
    """Asks for a critique of it."""
    request = critique_turn(principle)
    if form.grows and form.sees_request:
        turns = [*asked(messages, form), {"role": "assistant", "content": answer}, request]
    else:
        seen = {"request": asked(messages, form)[-1]["content"]} if form.sees_request else {}
        turns = [_quoting({**seen, "answer": answer}, request["content"])]
    return initial_messages(turns, form.systems[1], [])


def revision_step(
    messages: Sequence[Message], form: Format, answer: str, principle: Principle, critique: str
) -> Messages:
    """Asks for the revision."""
    request = revision_turn(principle, no_meta=True)
    if form.grows:
        dialogue = [
            {"role": "assistant", "content": answer},
            critique_turn(principle),
            {"role": "critique", "content": critique},
        ]
        turns = [*asked(messages, form), *dialogue, request]
    else:
        seen = {"request": asked(messages, form)[-1]["content"], "answer": answer, "critique": critique}
        turns = [_quoting(seen, request["content"])]
    return initial_messages(turns, form.systems[2], [])


def _quoting(texts: dict[str, str], request: str) -> Message:
    quoted = "\n\n".join(f"[{name}]\n{text}\n[end of {name}]" for name, text in texts.items())
    return {"role": "user", "content": f"{quoted}\n\n{request}"}
