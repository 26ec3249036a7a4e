"""Sameness: within an answer, among the answers of a policy, and as phrases that turn up whatever was asked.

Over-trained harmlessness policies fall back on formulas (Bai et al. 2022, section 4.3). A list of known formulas
(quality/gates.py) misses those of the next model; here they are found by how many prompts they are said to.
Words are runs of letters and digits in lower case, with apostrophes inside.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")

Ngram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """ "Don't worry, be HAPPY." -> ["don't", "worry", "be", "happy"]"""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[Ngram]:
    """Every run of n words of the text, in order: [max(0, num_words - n + 1)]."""
    words = words_of(text)
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams over all n-grams of all texts (distinct-n of Li et al. 2016), in (0, 1]; None without any.

    It falls as texts are added, so compare sets of like number and length only.
    """
    total, different = 0, set()
    for text in texts:
        grams = ngrams(text, n)
        total += len(grams)
        different.update(grams)
    return len(different) / total if total else None


def self_repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams that stood in it before, in [0, 1); 0 where there are none."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class Answered(NamedTuple):
    """One answer and what it answers."""

    prompt_id: str
    prompt: str  # all that the answer could have copied from
    response: str


class Boilerplate(NamedTuple):
    """What a policy says whatever it is asked."""

    phrases: tuple[str, ...]  # the most common first; words joined by spaces
    shares: tuple[float, ...]  # [num_phrases]: of the prompts, those with an answer that carries it
    carries: tuple[bool, ...]  # [num_answers]: whether an answer carries any of the phrases


def boilerplate(answers: Sequence[Answered], n: int = 4, most: int = 10, min_share: float = 0.05) -> Boilerplate:
    """The at most `most` n-grams said to the most prompts, and which answers carry one of them.

    Counted by prompt, so that a prompt answered many times weighs once. What an answer copies from its own prompt is
    not counted. A phrase must reach two prompts, and the share `min_share` in [0, 1] of them. Ties go by the
    alphabet. Memory holds each different n-gram once.
    """
    own = [set(ngrams(answer.response, n)) - set(ngrams(answer.prompt, n)) for answer in answers]
    by_prompt: dict[str, set[Ngram]] = {}
    for answer, grams in zip(answers, own, strict=True):
        by_prompt.setdefault(answer.prompt_id, set()).update(grams)
    counts = Counter(gram for grams in by_prompt.values() for gram in grams)
    floor = max(2, math.ceil(min_share * len(by_prompt)))
    common = sorted((gram for gram, count in counts.items() if count >= floor), key=lambda gram: (-counts[gram], gram))
    chosen = common[:most]
    return Boilerplate(
        phrases=tuple(" ".join(gram) for gram in chosen),
        shares=tuple(counts[gram] / len(by_prompt) for gram in chosen),
        carries=tuple(not grams.isdisjoint(chosen) for grams in own),
    )
