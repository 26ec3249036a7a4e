"""The metrics of answers: what each is called, what it means, which way is better, in which order they are shown.

On the rows a metric is "harmful", or "harmful.llama_guard" where it is a further scorer's opinion on the same thing.
The name of one that is no share holds "score".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

HARMFUL, HELPFUL, EVASIVE = "harmful", "helpful", "evasive"
REFUSAL, OVER_REFUSAL, REQUEST_HARMFUL = "refusal", "over_refusal", "request_harmful"
PREACHY, META, IN_LANGUAGE = "preachy", "meta", "in_language"
OFFENSIVE = "offensive"
REPETITION, STOCK_PHRASES, BOILERPLATE = "repetition", "stock_phrases", "boilerplate"
SCORE = "score"  # in the name of every metric that is no share
PREFERENCE_SCORE = f"preference_{SCORE}"  # a preference model's own units; higher is better
CORRECT = "multiple_choice_correct"  # 1 or 0; a tie is 0
MARGIN = "multiple_choice_margin"  # above 0 correct, 0 a tie; nats, or a preference model's own units


class Metric(NamedTuple):
    """A metric in words."""

    title: str
    meaning: str
    better: Literal["lower", "higher", "neither"]


METRICS = {  # in the order in which they are shown
    HARMFUL: Metric("Harmful", "share of harmful requests answered harmfully", "lower"),
    HELPFUL: Metric("Helpful", "helpfulness on harmless requests, 0 to 1", "higher"),
    EVASIVE: Metric("Evasive", "share of harmful requests refused without a reason or an alternative", "lower"),
    OVER_REFUSAL: Metric("Over-refusal", "share of harmless requests refused", "lower"),
    REFUSAL: Metric("Refusal", "share of red-team requests refused", "neither"),
    PREACHY: Metric("Preachy", "share of answers that moralise", "lower"),
    META: Metric("Meta-commentary", "share of answers that speak of their own revision", "lower"),
    OFFENSIVE: Metric("Offensive", "probability that the language is offensive, by a classifier", "lower"),
    IN_LANGUAGE: Metric("In language", "share of answers made of sentences of the micro world", "higher"),
    REPETITION: Metric("Repetition", "share of word 3-grams that stood in the answer before", "lower"),
    STOCK_PHRASES: Metric("Stock phrases", "share of words in formulas", "lower"),
    BOILERPLATE: Metric("Boilerplate", "share of answers that carry a phrase most often repeated", "lower"),
}
HEADLINE = (HARMFUL, HELPFUL, EVASIVE)
_SAID_FIRST = ("harm", "help", PREFERENCE_SCORE)  # how judges' metrics of the same things begin


def kind_of(name: str) -> str:
    """ "harmful.llama_guard" -> "harmful"."""
    return name.partition(".")[0]


def metric_of(name: str) -> Metric:
    """A metric in words; "harmful.llama_guard" is the second opinion of that scorer on "harmful"."""
    kind, _, scorer = name.partition(".")
    if kind in METRICS:
        found = METRICS[kind]
        return found._replace(title=f"{found.title} ({scorer})") if scorer else found
    words = name.replace("_", " ")
    better: Literal["lower", "higher", "neither"] = "neither"
    if kind.startswith("harm") and not kind.startswith("harmless"):
        better = "lower"
    elif kind.startswith(("help", "harmless", PREFERENCE_SCORE, "accuracy")):
        better = "higher"
    return Metric(words[:1].upper() + words[1:], f"metric {name}", better)


def in_order(names: Iterable[str]) -> list[str]:
    """As a table shows them: harm first, a second opinion after the first; those of judges last, by the alphabet."""
    order = list(METRICS)
    return sorted(names, key=lambda name: (_place(kind_of(name), order), name))


def _place(kind: str, order: list[str]) -> int:
    return order.index(kind) if kind in order else len(order)


def most_telling(names: Iterable[str], most: int) -> list[str]:
    """The metrics to show where there is room for so many: of harm and help first, one of each kind."""
    first: dict[str, str] = {}
    for name in in_order(names):
        first.setdefault(kind_of(name), name)
    told = [kind for kind in first if kind in HEADLINE or kind.startswith(_SAID_FIRST)]
    return [first[kind] for kind in dict.fromkeys([*told, *first])][:most]


def judges_harm(name: str) -> bool:
    """Whether a metric says how harmful or harmless answers are: "harmful", a judge's "harmlessness_score"."""
    return name.startswith("harm")


def is_share(name: str, values: Iterable[float] = ()) -> bool:
    """Whether a metric is a share or a probability, and so shown in percent: by its name, and by its values."""
    return SCORE not in name and all(-1 <= value <= 1 for value in values)
