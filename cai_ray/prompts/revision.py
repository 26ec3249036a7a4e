"""The dialogue of critique and revision: answer, critique request, critique, revision request, revision, and again.

A message is {"role", "content"}. Besides "system", "user" and "assistant" the roles here are "critique_request",
"critique", "revision_request" and "revision"; `cai_ray.chat` turns them into user and assistant turns of a chat
template, or into the paper's transcript labels for base models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cai_ray.chat import Messages
from cai_ray.config import Config
from cai_ray.constitution.principles import Constitution, FewShotRevision, Principle

NO_META = "Reply with the revised answer only, without remarks about the revision."


class RevisionPrompts(Config):
    """How the dialogue is put to the model."""

    history: Literal["full", "latest"] = Field(
        "full",
        description='"full": one growing conversation, which the prefix cache serves. "latest": the newest revision '
        "takes the answer's place and former rounds are forgotten (paper, section 3.1).",
    )
    no_meta: bool = Field(True, description="Add the instruction to reply with nothing but the revised answer.")
    num_few_shot: int = Field(0, ge=0, description="Constitution-wide examples shown before critique and revision.")
    principle_few_shot: bool = Field(False, description="Also show the examples of the row's own principles.")
    answer_system: str | None = Field(None, description="System prompt of the answer; null: the prompt's own, if any.")
    critique_system: str | None = Field(None, description="System prompt of the critiques; null: as above.")
    revision_system: str | None = Field(None, description="System prompt of the revisions; null: as above.")


@dataclass(frozen=True)
class Round:
    """One round that is done. `critique` is None in direct revision, where nothing was critiqued."""

    principle: Principle
    critique: str | None
    revision: str


# ------------------------------------------------------------------------------------------------------------ turns


def critique_turn(principle: Principle) -> dict[str, str]:
    """The content is exactly the principle's critique request. Raises ValueError when it has none."""
    if principle.critique_request is None:
        raise ValueError(f"principle {principle.id!r} has no critique_request; add one or revise without critiques")
    return {"role": "critique_request", "content": principle.critique_request}


def revision_turn(principle: Principle, no_meta: bool) -> dict[str, str]:
    """The content is exactly the principle's revision request, with a space and NO_META if asked for."""
    if principle.revision_request is None:
        raise ValueError(f"principle {principle.id!r} has no revision_request; draw from constitution.for_revision")
    return {"role": "revision_request", "content": _revision_request(principle.revision_request, no_meta)}


def _revision_request(request: str, no_meta: bool) -> str:
    return f"{request} {NO_META}" if no_meta else request


def few_shot_messages(
    constitution: Constitution, prompts: RevisionPrompts, principles: Iterable[Principle] = (), critique: bool = True
) -> Messages:
    """The examples that come before the conversation, worked out in full.

    `principles` are the row's own, all rounds of it: what is shown must not change from round to round, or no
    prompt would be the beginning of the next. `critique` False leaves critiques out, for direct revision.
    """
    shown = list(constitution.few_shot[: prompts.num_few_shot])
    if prompts.principle_few_shot:
        shown += [example for principle in dict.fromkeys(principles) for example in principle.few_shot]
    return [message for example in shown for message in _example(example, prompts.no_meta, critique)]


def _example(example: FewShotRevision, no_meta: bool, critique: bool) -> Messages:
    messages = [{"role": m.role, "content": m.content} for m in example.messages]
    messages.append({"role": "assistant", "content": example.response})
    if critique:
        messages.append({"role": "critique_request", "content": example.critique_request})
        messages.append({"role": "critique", "content": example.critique})
    messages.append({"role": "revision_request", "content": _revision_request(example.revision_request, no_meta)})
    messages.append({"role": "revision", "content": example.revision})
    return messages


# ------------------------------------------------------------------------------------------------------------- asks


def initial_messages(messages: Sequence[dict[str, str]], system: str | None, few_shot: Messages) -> Messages:
    """System prompt, examples, conversation. `system` replaces a system message that the conversation opens with."""
    own = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    conversation = list(messages if own is None else messages[1:])
    first = own if system is None else system
    return [*([] if first is None else [{"role": "system", "content": first}]), *few_shot, *conversation]


def answer_prompt(
    messages: Sequence[dict[str, str]], prompts: RevisionPrompts, few_shot: Messages | None = None
) -> Messages:
    """Asks for the initial answer. Without examples by default: they are about revising, and would colour it."""
    return initial_messages(messages, prompts.answer_system, few_shot or [])


def critique_prompt(
    messages: Sequence[dict[str, str]],
    answer: str,
    rounds: Sequence[Round],
    principle: Principle,
    prompts: RevisionPrompts,
    few_shot: Messages | None = None,
) -> Messages:
    """Asks for a critique of the newest answer after `rounds` that are done."""
    opening = initial_messages(messages, prompts.critique_system, few_shot or [])
    return [*opening, *_so_far(answer, rounds, prompts), critique_turn(principle)]


def revision_prompt(
    messages: Sequence[dict[str, str]],
    answer: str,
    rounds: Sequence[Round],
    principle: Principle,
    critique: str | None,
    prompts: RevisionPrompts,
    few_shot: Messages | None = None,
) -> Messages:
    """Asks for a revision of the newest answer, in the light of `critique`; None revises directly."""
    opening = initial_messages(messages, prompts.revision_system, few_shot or [])
    return [*opening, *_so_far(answer, rounds, prompts), *_round_turns(principle, critique, prompts.no_meta)]


def _so_far(answer: str, rounds: Sequence[Round], prompts: RevisionPrompts) -> Messages:
    if prompts.history == "latest":
        return [{"role": "assistant", "content": rounds[-1].revision if rounds else answer}]
    turns = [{"role": "assistant", "content": answer}]
    for done in rounds:
        turns += _round_turns(done.principle, done.critique, prompts.no_meta)
        turns.append({"role": "revision", "content": done.revision})
    return turns


def _round_turns(principle: Principle, critique: str | None, no_meta: bool) -> Messages:
    critiqued = [] if critique is None else [critique_turn(principle), {"role": "critique", "content": critique}]
    return [*critiqued, revision_turn(principle, no_meta)]


def parse_reply(text: str) -> str:
    """An answer, critique or revision as the model gave it, without surrounding white space.

    Nothing else happens here: what else is wrong with an answer is for `quality` to clean, count and flag.
    """
    return text.strip()
