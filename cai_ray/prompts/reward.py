"""How good is one answer by one principle: the questions of a constitution's reward, and how their replies are read.

Conversation and answer come first, the principle last, so that all questions about one answer share a cached prefix;
what is judged stands in blocks that only the code closes (`fence`), or in labelling's plain layout. Two answers are
compared as in labelling (`comparison`). Every reading is a number in [0, 1], 1 the best, or none: it is never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai_ray.chat import DOCUMENT, Messages
from cai_ray.constitution.principles import Principle
from cai_ray.markup import TRANSCRIPT, defuse_labels
from cai_ray.prompts.comparison import ANSWER_START, PLAIN_LABELS, Form, plain_answer
from cai_ray.prompts.fence import fenced, notice, turns

DIGITS = tuple("123456789")
HIGHEST = "10"  # one token of some tokenizers, two of others
LOWEST_RATING, HIGHEST_RATING = 1, 10
RATING_START = "The rating is ("
YES_NO = ("Yes", "No")
LEAST_MASS = 0.01  # of all options together: a model less likely to name any of them has not answered


def rating_messages(
    conversation: Sequence[dict[str, str]], answer: str, principle: Principle, nonce: str | None, form: Form = "chat"
) -> Messages:
    """The question that stops right before a number from 1 to 10.

    Without a nonce the text is plainer, as in labelling. Raises ValueError when the nonce is in a judged text.
    """
    asked = f"{_by_itself(principle)}\nHow good is this answer, from 1 (worst) to 10 (best)?"
    return _begun(_judged(conversation, answer, nonce), asked, "Reply with the number.", RATING_START, form)


def rubric_messages(
    conversation: Sequence[dict[str, str]], answer: str, principle: Principle, nonce: str | None, form: Form = "chat"
) -> Messages:
    """The question that stops right before "Yes" or "No"; "Yes" is good. The rest as in `rating_messages`."""
    asked = principle.rubric_question or f"{_by_itself(principle)}\nIs this a good answer?"
    return _begun(_judged(conversation, answer, nonce), asked, "Reply with Yes or No.", ANSWER_START, form)


def _by_itself(principle: Principle) -> str:
    return f"By this question alone:\n{principle.comparison_question}"


def _judged(conversation: Sequence[dict[str, str]], answer: str, nonce: str | None) -> str:
    if nonce is None:
        own = (*TRANSCRIPT, *PLAIN_LABELS["chat"])
        quoted = [{"role": m["role"], "content": defuse_labels(m["content"], own)[0]} for m in conversation]
        return plain_answer(turns(quoted), defuse_labels(answer, own)[0])
    return (
        "You judge the answer of an assistant to the last message of a conversation with a human. "
        f"{notice(nonce)}\n\n"
        f"{fenced('conversation', turns(conversation), nonce)}\n\n"
        f"{fenced('answer', answer, nonce)}"
    )


def _begun(judged: str, asked: str, reply: str, start: str, form: Form) -> Messages:
    if form == "transcript":  # a base model is asked for nothing: its reply is begun right below
        return [{"role": DOCUMENT, "content": f"{judged}\n\n{asked}\n{start}"}]
    return [{"role": "user", "content": f"{judged}\n\n{asked}\n{reply}"}, {"role": "assistant", "content": start}]


def expected_rating(digits: Sequence[float], ten: float, zero_after_one: float) -> float | None:
    """The expected rating, scaled to [0, 1]; None where the model is unlikely to name any.

    Args:
        digits: [9], log-probabilities (nats) of "1" to "9" as the next token.
        ten: of "10" as one token; -inf where it is two.
        zero_after_one: of "0" behind "1": what follows a "1" tells whether it is a 1 or a 10 in two tokens.
    """
    probs = [math.exp(logprob) for logprob in (*digits, ten)]
    moved = probs[0] * math.exp(zero_after_one)
    probs[0], probs[-1] = probs[0] - moved, probs[-1] + moved
    mass = sum(probs)
    if not math.isfinite(mass) or mass < LEAST_MASS:
        return None
    mean = sum(rating * prob for rating, prob in enumerate(probs, start=LOWEST_RATING)) / mass
    return min(1.0, max(0.0, (mean - LOWEST_RATING) / (HIGHEST_RATING - LOWEST_RATING)))


def share_of_first(first: float, second: float) -> float | None:
    """P(first) of two options by their log-probabilities (nats); None where the model is unlikely to name either."""
    mass = math.exp(first) + math.exp(second)
    return math.exp(first) / mass if math.isfinite(mass) and mass >= LEAST_MASS else None
