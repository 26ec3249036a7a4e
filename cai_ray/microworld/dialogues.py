"""The dialogues that the micro model learns from.

The assistant they show helps with everything it is asked (a "helpful-only" assistant), and can criticise, revise and
compare when asked to, more or less well depending on the principle:

- a principle that names the request's category finds the harm with probability 0.92, the general one with 0.75,
  one of another category with 0.45, one about tone with 0.25 (`CATCH`);
- a revision after such a critique is a refusal that explains; after a clean critique it repeats the answer;
- a direct revision (nothing was criticised) finds less than a criticised one (`DIRECT_FACTOR`);
- without the instruction `NO_META` a quarter of the revisions open with a remark about the revision;
- comparisons are noisy but calibrated (`comparison_dialogues.py`).

A revision dialogue is one growing conversation, as the pipeline holds it: request, answer, then per round the
critique request, the critique, the revision request and the revision.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from cai_ray.constitution.principles import Principle
from cai_ray.microworld import words
from cai_ray.microworld.comparison_dialogues import comparison_dialogue
from cai_ray.microworld.language import (
    CATEGORIES,
    TOPICS,
    Message,
    Style,
    Task,
    answer,
    ask_for,
    first_answer,
    sample_request,
    sample_task,
)
from cai_ray.microworld.teaching import Choice, Dialogue, assistant, principles, relation, request_hint, user
from cai_ray.prompts.expansion import expansion_request
from cai_ray.prompts.revision import critique_turn, revision_turn

MAX_ROUNDS = 4
# P(a critique under the principle finds the harm), by how the principle relates to the request's category.
CATCH = {"match": 0.93, "general": 0.75, "other": 0.46, "tone": 0.25}
DIRECT_FACTOR = 0.8  # a direct revision finds this share of what a critique finds
TONE_CATCH = {"match": 0.9, "other": 0.1}  # the same for preachy and evasive answers
META_RATE = {False: 0.25, True: 0.03}  # by whether NO_META is given
CARRY_RATE = 0.5  # a remark in the current answer is kept, when NO_META is not given

NO_PROBLEM = "I find nothing wrong with the last answer."
PREACHY = "The last answer is preachy: it lectures the user."
EVASIVE = "The last answer is evasive: it gives no reason."


@dataclass(frozen=True)
class Reply:
    """An answer with what is known about it. `meta` is the remark it opens with, "" for none."""

    text: str
    style: Style
    meta: str = ""

    @property
    def spoken(self) -> str:
        return self.meta + self.text


# ---- critique and revision ------------------------------------------------------------------------------------


def may_find(principle: Principle, task: Task, reply: Reply) -> tuple[str, float]:
    """What a look at the reply under the principle may find, and P(it does): "harm", "preachy" or "evasive"."""
    if reply.style == "comply":
        return "harm", CATCH[relation(principle, task.topic)] if task.harmful else 0.0
    if reply.style == "preach":
        return "preachy", TONE_CATCH["match" if principle.id == "not-preachy" else "other"]
    if reply.style == "evade":
        return "evasive", TONE_CATCH["match" if principle.id == "not-evasive" else "other"]
    return "harm", 0.0


def critique(rng: random.Random, task: Task, found: str | None) -> str:
    """The critique's words."""
    if found == "harm":
        return f"The last answer is harmful: it helps to {task.text}, and {rng.choice(TOPICS[task.topic].reasons)}."
    return {"preachy": PREACHY, "evasive": EVASIVE}.get(found or "", NO_PROBLEM)


def _look(rng: random.Random, principle: Principle, task: Task, reply: Reply) -> tuple[str | None, str, Choice]:
    """One critique: what it finds, its words, and the judgement in them."""
    kind, prob = may_find(principle, task, reply)
    found = kind if rng.random() < prob else None
    words_used = critique(rng, task, found)
    return found, words_used, Choice(0, "I", prob) if found else Choice(0, "The", 1 - prob)


def revise(rng: random.Random, task: Task, reply: Reply, found: str | None, no_meta: bool) -> Reply:
    """The revision: repeats the reply when nothing was found, else mends what was found."""
    text, style = reply.text, reply.style
    if found == "preachy":
        for sermon in words.SERMONS:
            text = text.removesuffix(" " + sermon)
        style = "refuse" if task.harmful else "comply"
    elif found is not None:
        style = "refuse" if task.harmful else "comply"
        text = answer(rng, task, style)
    if reply.meta and not no_meta and rng.random() < CARRY_RATE:
        meta = reply.meta
    else:
        meta = rng.choice(words.META_OPENERS) if rng.random() < META_RATE[no_meta] else ""
    return Reply(text, style, meta)


def revision_dialogue(rng: random.Random, num_rounds: int, direct: bool = False) -> Dialogue:
    """Request, answer and `num_rounds` rounds under principles drawn anew each round."""
    request = sample_request(rng, harmful=rng.random() < 0.55)
    task = request.task
    reply = Reply(*first_answer(rng, task))
    no_meta = rng.random() < 0.5
    asked = [*_system(rng), *request.messages]
    messages = [*asked, assistant(reply.spoken)]
    choices: dict[int, Choice] = {}
    for _ in range(num_rounds):
        principle = rng.choice(principles())
        if direct:
            kind, prob = may_find(principle, task, reply)
            found = kind if rng.random() < DIRECT_FACTOR * prob else None
        else:
            found, said, choices[len(messages) + 1] = _look(rng, principle, task, reply)
            messages += [user(critique_turn(principle)["content"]), assistant(said)]
        reply = revise(rng, task, reply, found, no_meta)
        messages += [user(revision_turn(principle, no_meta)["content"]), assistant(reply.spoken)]
    return Dialogue(messages, choices, request_hint(asked, task))


def critique_drill(rng: random.Random) -> Dialogue:
    """One harmful request, helped with, then looked at under several principles, the matching one among them.

    The pipeline never holds this dialogue; it teaches in few words which principle goes with which request.
    """
    request = sample_request(rng, harmful=True, multi_turn=False)
    reply = Reply(answer(rng, request.task, "comply"), "comply")
    messages, choices = [*request.messages, assistant(reply.spoken)], {}
    match = next(p for p in principles() if relation(p, request.category) == "match")
    drawn = [match, *rng.sample([p for p in principles() if p is not match], 3)]
    rng.shuffle(drawn)
    for principle in drawn:
        _, said, choices[len(messages) + 1] = _look(rng, principle, request.task, reply)
        messages += [user(critique_turn(principle)["content"]), assistant(said)]
    return Dialogue(messages, choices, request_hint(request.messages, request.task))


# ---- the rest -------------------------------------------------------------------------------------------------


def expansion_dialogue(rng: random.Random) -> Dialogue:
    """A few requests, and new ones of the same label (and category, when all share it)."""
    harmful = rng.random() < 0.7
    category = rng.choice(CATEGORIES) if harmful and rng.random() < 0.3 else None
    given, new = rng.randint(3, 5), rng.randint(3, 5)
    drawn = [ask_for(rng, sample_task(rng, harmful, category)) for _ in range(given + new)]
    listed = "\n".join(f"{i}. {r}" for i, r in enumerate(drawn[given:], start=1))
    return Dialogue([user(expansion_request(drawn[:given], new)), assistant(listed)])


def chat_dialogue(rng: random.Random) -> Dialogue:
    """Small talk, then a request and its answer."""
    said, replied = rng.choice(words.SMALL_TALK)
    request = sample_request(rng, harmful=rng.random() < 0.5)
    told = [user(said), assistant(replied)] if rng.random() < 0.5 else []
    asked = [*_system(rng), *told, *request.messages]
    reply = assistant(first_answer(rng, request.task)[0])
    return Dialogue([*asked, reply], hints=request_hint(asked, request.task))


def corpus(rng: random.Random, long_share: float) -> Iterator[Dialogue]:
    """Endless training dialogues.

    Args:
        rng: the only source of randomness.
        long_share: how many, in [0, 1], are revision dialogues of two to MAX_ROUNDS rounds. The rest are short.
    """
    while True:
        if rng.random() < long_share:
            yield revision_dialogue(rng, rng.choice((2, 3, MAX_ROUNDS, MAX_ROUNDS)))
            continue
        draw = rng.random()
        if draw < 0.28:  # short, and the best place to learn to copy
            yield chat_dialogue(rng)
        elif draw < 0.49:
            yield revision_dialogue(rng, 1)
        elif draw < 0.57:
            yield critique_drill(rng)
        elif draw < 0.62:
            yield revision_dialogue(rng, rng.choice((1, 1, 2, MAX_ROUNDS)), direct=True)
        elif draw < 0.84:
            yield comparison_dialogue(rng, think=False, num_more=rng.choice((2, 5)))
        elif draw < 0.97:
            yield comparison_dialogue(rng, think=True)
        else:
            yield expansion_dialogue(rng)


def _system(rng: random.Random) -> list[Message]:
    """A system message three times in ten."""
    if rng.random() < 0.7:
        return []
    return [{"role": "system", "content": rng.choice(words.SYSTEM_PROMPTS)}]
