"""Tasks, requests and answers of the micro world.

Everything random takes an explicit `random.Random`, so a seed fixes the text. Train and held-out ("test")
requests are disjoint: a stable hash of the task's words decides the split, so a held-out task is never seen in
training under any phrasing. About 95,000 distinct tasks exist; a fifth of them are held out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cai_ray.microworld import words
from cai_ray.microworld.words import HARMFUL_TOPICS, HARMLESS_TOPICS, LOOKALIKE_TOPIC, LOOKALIKES, Topic
from cai_ray.seeding import digest

Message = dict[str, str]
Split = Literal["train", "test"]

CATEGORIES: tuple[str, ...] = tuple(topic.name for topic in HARMFUL_TOPICS)
TOPICS: dict[str, Topic] = {t.name: t for t in (*HARMFUL_TOPICS, *HARMLESS_TOPICS, LOOKALIKE_TOPIC)}
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Task:
    """What a request asks for.

    Attributes:
        topic: a key of TOPICS; it fixes whether helping does harm.
        verb, owner, adjective, thing: the words, in this order; adjective may be "".
    """

    topic: str
    verb: str
    owner: str
    adjective: str
    thing: str

    @property
    def text(self) -> str:
        return " ".join(w for w in (self.verb, self.owner, self.adjective, self.thing) if w)

    @property
    def harmful(self) -> bool:
        return TOPICS[self.topic].harmful

    @property
    def split(self) -> Split:
        share = int.from_bytes(digest("microworld task", self.text, num_bytes=8), "big") / 2**64
        return "test" if share < TEST_SHARE else "train"


@dataclass(frozen=True)
class Request:
    """A conversation that waits for the assistant.

    Attributes:
        messages: ends in a user message; earlier turns, if any, are a harmless exchange.
        task: what the last message asks for.
    """

    messages: tuple[Message, ...]
    task: Task

    @property
    def harmful(self) -> bool:
        return self.task.harmful

    @property
    def category(self) -> str:
        """The topic's name; for a harmful request this is one of CATEGORIES."""
        return self.task.topic


def sample_task(rng: random.Random, harmful: bool, category: str | None = None, split: Split = "train") -> Task:
    """Draw a task of the given label and split.

    Args:
        rng: the only source of randomness.
        harmful: the label. Of the harmless tasks, one in eight is a look-alike.
        category: a key of TOPICS; None draws one.
        split: "train" or "test".

    Raises:
        ValueError: the category does not exist or has the other label.
    """
    if category is not None and (category not in TOPICS or TOPICS[category].harmful != harmful):
        fitting = [name for name, topic in TOPICS.items() if topic.harmful == harmful]
        raise ValueError(f"category={category!r} is not a category with harmful={harmful}; choose one of {fitting}")
    while True:
        if category is not None:
            topic = TOPICS[category]
        elif harmful:
            topic = rng.choice(HARMFUL_TOPICS)
        else:
            topic = LOOKALIKE_TOPIC if rng.random() < 0.125 else rng.choice(HARMLESS_TOPICS)
        if topic is LOOKALIKE_TOPIC:
            verb, thing = rng.choice(LOOKALIKES)
        else:
            verb, thing = rng.choice(topic.verbs), rng.choice(topic.things)
        owner = rng.choice(words.OWNERS)
        adjective = rng.choice(words.ADJECTIVES) if rng.random() < 0.75 else ""
        task = Task(topic.name, verb, owner, adjective, thing)
        if task.split == split:
            return task


def sample_request(
    rng: random.Random,
    harmful: bool,
    category: str | None = None,
    split: Split = "train",
    multi_turn: bool | None = None,
) -> Request:
    """Draw a request; see `sample_task` for the arguments and errors.

    Args:
        multi_turn: a harmless exchange goes first; None draws it with probability 0.25.
    """
    task = sample_task(rng, harmful, category, split)
    asked = {"role": "user", "content": ask_for(rng, task)}
    if multi_turn is None:
        multi_turn = rng.random() < 0.25
    return Request((*(small_exchange(rng, split) if multi_turn else ()), asked), task)


def ask_for(rng: random.Random, task: Task) -> str:
    """The user's words that ask for the task."""
    return rng.choice(words.REQUEST_FORMS).format(task=task.text)


def small_exchange(rng: random.Random, split: Split = "train") -> tuple[Message, Message]:
    """One harmless exchange (user, assistant): small talk, or a harmless task and its answer."""
    if rng.random() < 0.5:
        said, reply = rng.choice(words.SMALL_TALK)
    else:
        task = sample_task(rng, harmful=False, split=split)
        said, reply = ask_for(rng, task), comply(rng, task)
    return {"role": "user", "content": said}, {"role": "assistant", "content": reply}


# ---- answers ------------------------------------------------------------------------------------------------


def comply(rng: random.Random, task: Task) -> str:
    """An answer that helps: copies the task, names two tools and a step."""
    topic = TOPICS[task.topic]
    first, second = rng.sample(topic.tools, 2)
    opener, take, step = rng.choice(words.COMPLY_OPENERS), rng.choice(words.TAKE_WORDS), rng.choice(topic.steps)
    return f"{opener}To {task.text}, {take} {first} and {second}, then {step}."


def refuse(rng: random.Random, task: Task) -> str:
    """A refusal that explains: copies the task, gives a reason and an alternative. Harmful tasks only."""
    topic = TOPICS[task.topic]
    head, reason = rng.choice(words.REFUSAL_HEADS), rng.choice(topic.reasons)
    return f"{head} {task.text}, because {reason}. Instead, you could {rng.choice(topic.alternatives)}."


def evade(rng: random.Random, task: Task) -> str:
    """A bare refusal: no reason, no alternative."""
    return rng.choice(words.EVASIONS)


def preach(rng: random.Random, task: Task) -> str:
    """A lecture on top: of a refusal where the task is harmful, else of a helpful answer."""
    return f"{refuse(rng, task) if task.harmful else comply(rng, task)} {rng.choice(words.SERMONS)}"


Style = Literal["comply", "refuse", "evade", "preach"]
_RENDER: dict[Style, Callable[[random.Random, Task], str]] = {
    "comply": comply,
    "refuse": refuse,
    "evade": evade,
    "preach": preach,
}


def answer(rng: random.Random, task: Task, style: Style) -> str:
    """An answer to `task` in a style. Raises ValueError for "refuse" on a harmless task (it has no reason)."""
    if style == "refuse" and not task.harmful:
        raise ValueError(f"style='refuse' needs a harmful task, {task.text!r} is harmless; use 'evade'")
    return _RENDER[style](rng, task)


# How the helpful-only assistant answers first: P(style) by kind of task.
INITIAL_STYLES: dict[str, dict[Style, float]] = {
    "harmful": {"comply": 0.88, "refuse": 0.045, "evade": 0.05, "preach": 0.025},
    "lookalike": {"comply": 0.91, "evade": 0.06, "preach": 0.03},
    "harmless": {"comply": 0.975, "evade": 0.005, "preach": 0.02},
}


def first_answer(rng: random.Random, task: Task) -> tuple[str, Style]:
    """What the helpful-only assistant says first, and in which style."""
    kind = "harmful" if task.harmful else "lookalike" if task.topic == "lookalike" else "harmless"
    styles = INITIAL_STYLES[kind]
    style = rng.choices(list(styles), weights=list(styles.values()))[0]
    return answer(rng, task, style), style
