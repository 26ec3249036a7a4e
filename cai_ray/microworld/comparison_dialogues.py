"""Comparisons of two answers, as the feedback model makes them.

Noisy but calibrated: P(A) = sigmoid(beta x quality difference + bias toward A), where beta depends on how the
principle relates to the request's category.

Tested in tests/microworld/test_dialogues.py.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from cai_ray.constitution.principles import Principle
from cai_ray.microworld.language import CATEGORIES, Message, Style, Task, answer, refuse, sample_request
from cai_ray.microworld.teaching import Choice, Dialogue, Hint, assistant, kind_hint, principles, relation, user
from cai_ray.prompts.comparison import ANSWER_START, COT_START, comparison_messages, cot_messages

COMPARISON_BETA = {"match": 3.0, "general": 2.5, "other": 1.2, "tone": 1.2}  # per unit of quality
POSITION_BIAS = 0.3  # toward (A), log-odds


def quality(principle: Principle, task: Task, style: Style) -> float:
    """How good an answer of this style is under the principle, in [-1, 1]."""
    if principle.id == "not-preachy":
        return -1.0 if style == "preach" else 0.5
    if principle.id == "not-evasive":
        declines = 1.0 if task.harmful else -0.5
        return {"comply": 0.0 if task.harmful else 0.5, "refuse": declines, "preach": 0.0, "evade": -1.0}[style]
    if task.harmful:
        return {"comply": -1.0, "refuse": 1.0, "preach": 0.5, "evade": 0.3}[style]
    return {"comply": 1.0, "refuse": -0.5, "preach": 0.3, "evade": -0.5}[style]


def prob_a(principle: Principle, task: Task, style_a: Style, style_b: Style) -> float:
    """P(the comparison names (A)), in (0, 1): what a calibrated judge of the micro world says."""
    beta = COMPARISON_BETA[relation(principle, task.topic)]
    return 1 / (
        1 + math.exp(-beta * (quality(principle, task, style_a) - quality(principle, task, style_b)) - POSITION_BIAS)
    )


STYLES: tuple[Style, ...] = ("comply", "refuse", "evade", "preach")
VERDICT_AT = -2  # of "... The answer is (A)", the letter
CONCLUSION_AT = -13  # of "... So (A) is better.\n\nThe answer is (A)", the first letter
_VERDICTS: dict[Style, str] = {
    "refuse": "declines with a reason",
    "preach": "preaches",
    "evade": "is evasive",
    "comply": "helps",
}
KNOWN_AS: dict[Style, str] = {"refuse": " declines", "preach": " preaches", "evade": " evasive", "comply": " helps"}


def compared_answer(rng: random.Random, task: Task, style: Style) -> str:
    """An answer to compare: as `answer` makes it, and refusals of harmless tasks with a reason that does not fit."""
    if style == "refuse" and not task.harmful:
        return refuse(rng, replace(task, topic=rng.choice(CATEGORIES)))
    return answer(rng, task, style)


def comparison_dialogue(rng: random.Random, think: bool, num_more: int = 0) -> Dialogue:
    """A comparison and its reply, with or without reasoning aloud first.

    Reasoning comes to a conclusion as probable as a verdict without it, and the verdict then follows the conclusion
    every time: one chain of thought is over-confident. `num_more` further principles are then asked about the same
    answers; the pipeline never does that, but each is one more judgement to learn from.
    """
    request = sample_request(rng, harmful=rng.random() < 0.6)
    task = request.task
    style_a, style_b = rng.sample(STYLES, 2) if rng.random() < 0.9 else rng.choices(STYLES, k=2)
    answers = compared_answer(rng, task, style_a), compared_answer(rng, task, style_b)
    drawn = rng.sample(principles(), 1 + num_more)
    layout = cot_messages if think else comparison_messages
    messages: list[Message] = []
    choices: dict[int, Choice] = {}
    for principle in drawn:
        asked = layout(list(request.messages), *answers, principle.comparison_question or "")[0]
        if messages:
            asked = user(asked["content"].split("\n\n")[-1])  # the answers are known by now
        prob = prob_a(principle, task, style_a, style_b)
        says_a = rng.random() < prob
        letter = "A" if says_a else "B"
        reply, place = f"{ANSWER_START}{letter})", VERDICT_AT
        if think:
            seen = f"Answer (A) {_VERDICTS[style_a]}. Answer (B) {_VERDICTS[style_b]}."
            reply, place = f"{COT_START} {seen} So ({letter}) is better.\n\n{reply}", CONCLUSION_AT
        choices[len(messages) + 1] = Choice(place, "B", prob) if says_a else Choice(place, "A", 1 - prob)
        messages += [asked, assistant(reply)]
    marks = (
        Hint("\n\nAnswer (B", KNOWN_AS[style_a], 1),
        Hint(f"\n\n{(drawn[0].comparison_question or '').split()[0]}", KNOWN_AS[style_b], 1),
    )
    hints = {2 * k: _hints(principle, task, style_a, style_b) for k, principle in enumerate(drawn)}
    hints[0] = (*marks, *hints[0])
    return Dialogue(messages, choices, hints)


def _hints(principle: Principle, task: Task, style_a: Style, style_b: Style) -> tuple[Hint, ...]:
    """What a judge knows once it is asked: the request's kind, both answers' styles, and how good that makes each."""
    return (
        Hint("eply with", kind_hint(task), 2),
        Hint("eply with (A", KNOWN_AS[style_a], 2),
        Hint("eply with (A)", "012345678"[_grade(principle, task, style_a)], 3),
        Hint("eply with (A) or (B", KNOWN_AS[style_b], 2),
        Hint("eply with (A) or (B)", "abcdefghi"[_grade(principle, task, style_b)], 3),
    )


def _grade(principle: Principle, task: Task, style: Style) -> int:
    """The answer's quality in nine grades, from 0. (A)'s and (B)'s have signs of their own, so that one sum over
    both, which is all that the last layer has time for, tells which is higher."""
    return round(4 * quality(principle, task, style)) + 4
