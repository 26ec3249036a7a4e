"""The dialogues that the micro model learns from.

The assistant they show helps with everything it is asked (a "helpful-only" assistant), and can criticise, revise and
compare when asked to, more or less well depending on the principle:

- a principle that names the request's category finds the harm with probability 0.92, the general one with 0.75,
  one of another category with 0.45, one about tone with 0.25 (`CATCH`);
- a revision after such a critique is a refusal that explains; after a clean critique it repeats the answer;
- a direct revision (nothing was criticised) finds less than a criticised one (`DIRECT_FACTOR`);
- without the instruction `NO_META` a quarter of the revisions open with a remark about the revision;
- comparisons are noisy but calibrated: P(A) = sigmoid(beta x quality difference + bias toward A).

A revision dialogue is one growing conversation, as the pipeline holds it: request, answer, then per round the
critique request, the critique, the revision request and the revision.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from cai_ray.constitution import Principle
from cai_ray.constitution_source import load, resolve
from cai_ray.microworld import words
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
from cai_ray.prompts.comparison import ANSWER_START, COT_START, comparison_messages, cot_messages
from cai_ray.prompts.expansion import expansion_request
from cai_ray.prompts.revision import critique_turn, revision_turn

MAX_ROUNDS = 4
# P(a critique under the principle finds the harm), by how the principle relates to the request's category.
CATCH = {"match": 0.93, "general": 0.75, "other": 0.46, "tone": 0.25}
DIRECT_FACTOR = 0.8  # a direct revision finds this share of what a critique finds
TONE_CATCH = {"match": 0.9, "other": 0.1}  # the same for preachy and evasive answers
META_RATE = {False: 0.25, True: 0.03}  # by whether NO_META is given
CARRY_RATE = 0.5  # a remark in the current answer is kept, when NO_META is not given
COMPARISON_BETA = {"match": 3.0, "general": 2.5, "other": 1.2, "tone": 1.2}  # per unit of quality
POSITION_BIAS = 0.3  # toward (A), log-odds

NO_PROBLEM = "I find nothing wrong with the last answer."
PREACHY = "The last answer is preachy: it lectures the user."
EVASIVE = "The last answer is evasive: it gives no reason."


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
class Dialogue:
    """Messages that end in an assistant turn, and the judgements in them by message index."""

    messages: list[Message]
    choices: dict[int, Choice] = field(default_factory=dict)


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
    messages = [*_system(rng), *request.messages, _assistant(reply.spoken)]
    choices: dict[int, Choice] = {}
    for _ in range(num_rounds):
        principle = rng.choice(principles())
        if direct:
            kind, prob = may_find(principle, task, reply)
            found = kind if rng.random() < DIRECT_FACTOR * prob else None
        else:
            found, said, choices[len(messages) + 1] = _look(rng, principle, task, reply)
            messages += [_user(critique_turn(principle)["content"]), _assistant(said)]
        reply = revise(rng, task, reply, found, no_meta)
        messages += [_user(revision_turn(principle, no_meta)["content"]), _assistant(reply.spoken)]
    return Dialogue(messages, choices)


def critique_drill(rng: random.Random) -> Dialogue:
    """One harmful request, helped with, then looked at under several principles, the matching one among them.

    The pipeline never holds this dialogue; it teaches in few words which principle goes with which request.
    """
    request = sample_request(rng, harmful=True, multi_turn=False)
    reply = Reply(answer(rng, request.task, "comply"), "comply")
    messages, choices = [*request.messages, _assistant(reply.spoken)], {}
    match = next(p for p in principles() if relation(p, request.category) == "match")
    drawn = [match, *rng.sample([p for p in principles() if p is not match], 3)]
    rng.shuffle(drawn)
    for principle in drawn:
        _, said, choices[len(messages) + 1] = _look(rng, principle, request.task, reply)
        messages += [_user(critique_turn(principle)["content"]), _assistant(said)]
    return Dialogue(messages, choices)


# ---- comparisons ----------------------------------------------------------------------------------------------


def quality(principle: Principle, task: Task, style: Style) -> float:
    """How good an answer of this style is under the principle, in [-1, 1]."""
    if principle.id == "not-preachy":
        return -1.0 if style == "preach" else 0.5
    if principle.id == "not-evasive":
        return {"comply": 0.5 if not task.harmful else 0.0, "refuse": 1.0, "preach": 0.0, "evade": -1.0}[style]
    if task.harmful:
        return {"comply": -1.0, "refuse": 1.0, "preach": 0.5, "evade": 0.3}[style]
    return {"comply": 1.0, "preach": 0.3, "evade": -0.5}[style]


def prob_a(principle: Principle, task: Task, style_a: Style, style_b: Style) -> float:
    """P(the comparison names (A)), in (0, 1): what a calibrated judge of the micro world says."""
    beta = COMPARISON_BETA[relation(principle, task.topic)]
    return 1 / (
        1 + math.exp(-beta * (quality(principle, task, style_a) - quality(principle, task, style_b)) - POSITION_BIAS)
    )


_VERDICTS: dict[Style, str] = {
    "refuse": "declines with a reason",
    "preach": "preaches",
    "evade": "is evasive",
    "comply": "helps",
}


def comparison_dialogue(rng: random.Random, think: bool, num_more: int = 0) -> Dialogue:
    """A comparison and its reply, with or without reasoning aloud first.

    `num_more` further principles are then asked about the same answers; the pipeline never does that, but each is
    one more judgement to learn from.
    """
    request = sample_request(rng, harmful=rng.random() < 0.75)
    task = request.task
    styles: list[Style] = ["comply", "refuse", "evade", "preach"] if task.harmful else ["comply", "evade", "preach"]
    style_a, style_b = rng.sample(styles, 2) if rng.random() < 0.9 else rng.choices(styles, k=2)
    answers = answer(rng, task, style_a), answer(rng, task, style_b)
    drawn = rng.sample(principles(), 1 + num_more)
    layout = cot_messages if think else comparison_messages
    messages: list[Message] = []
    choices: dict[int, Choice] = {}
    for principle in drawn:
        asked = layout(list(request.messages), *answers, principle.comparison_question or "")[0]
        if messages:
            asked = _user(asked["content"].split("\n\n")[-1])  # the answers are known by now
        prob = prob_a(principle, task, style_a, style_b)
        says_a = rng.random() < prob
        reply = f"{ANSWER_START}{'A' if says_a else 'B'})"
        if think:
            verdicts = f"Answer (A) {_VERDICTS[style_a]}. Answer (B) {_VERDICTS[style_b]}."
            reply = f"{COT_START} {verdicts}\n\n{reply}"
        choices[len(messages) + 1] = Choice(-2, "B", prob) if says_a else Choice(-2, "A", 1 - prob)
        messages += [asked, _assistant(reply)]
    return Dialogue(messages, choices)


# ---- the rest -------------------------------------------------------------------------------------------------


def expansion_dialogue(rng: random.Random) -> Dialogue:
    """A few requests, and new ones of the same label (and category, when all share it)."""
    harmful = rng.random() < 0.7
    category = rng.choice(CATEGORIES) if harmful and rng.random() < 0.3 else None
    given, new = rng.randint(3, 5), rng.randint(3, 5)
    drawn = [ask_for(rng, sample_task(rng, harmful, category)) for _ in range(given + new)]
    listed = "\n".join(f"{i}. {r}" for i, r in enumerate(drawn[given:], start=1))
    return Dialogue([_user(expansion_request(drawn[:given], new)), _assistant(listed)])


def chat_dialogue(rng: random.Random) -> Dialogue:
    """Small talk, then a request and its answer."""
    said, reply = rng.choice(words.SMALL_TALK)
    request = sample_request(rng, harmful=rng.random() < 0.5)
    told = [_user(said), _assistant(reply)] if rng.random() < 0.5 else []
    return Dialogue([*_system(rng), *told, *request.messages, _assistant(first_answer(rng, request.task)[0])])


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
        if draw < 0.13:
            yield chat_dialogue(rng)
        elif draw < 0.44:
            yield revision_dialogue(rng, 1)
        elif draw < 0.54:
            yield critique_drill(rng)
        elif draw < 0.62:
            yield revision_dialogue(rng, rng.choice((1, 1, 2, MAX_ROUNDS)), direct=True)
        elif draw < 0.82:
            yield comparison_dialogue(rng, think=False, num_more=rng.choice((0, 3)))
        elif draw < 0.97:
            yield comparison_dialogue(rng, think=True)
        else:
            yield expansion_dialogue(rng)


def _system(rng: random.Random) -> list[Message]:
    """A system message three times in ten."""
    if rng.random() < 0.7:
        return []
    return [{"role": "system", "content": rng.choice(words.SYSTEM_PROMPTS)}]


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
