"""How close a prompt is to each principle, by the words they share: what contextual choice draws from.

TF-IDF and cosine as in scikit-learn, fitted once per constitution. A model's embeddings can stand in its place: all
that is asked for is a callable, text -> list of floats, one per principle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cai_ray.constitution.principles import Principle

_MAX_CHARS = 4000  # of a prompt; beyond this, more words say little more about what it is about
_GRAM = 4


def principle_text(principle: Principle) -> str:
    """What stands for a principle: its id and categories as words, and its requests."""
    words = [principle.id.replace("-", " "), *principle.categories]
    requests = [principle.critique_request or principle.revision_request or principle.comparison_question or ""]
    return " ".join([*words, *requests])


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


@lru_cache(maxsize=65536)
def _word_terms(word: str) -> tuple[str, ...]:
    """A word, and its 4-letter pieces, so that "stealing" meets "steal". Nothing for stop words."""
    if len(word) < 2 or word in _stop_words():
        return ()
    framed = f" {word} "
    return (word, *(framed[i : i + _GRAM] for i in range(len(framed) - _GRAM + 1)))


def terms(text: str) -> list[str]:
    """The terms of a text, with repeats."""
    letters = "".join(c if c.isalnum() else " " for c in text[:_MAX_CHARS].lower())
    return [term for word in letters.split() for term in _word_terms(word)]


class LexicalSimilarity:
    """text -> [num_principles] cosines in [0, 1], rounded to 1e-6 so that draws are the same on every machine."""

    def __init__(self, principle_texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(analyzer=terms)
        self._principles = self._vectorizer.fit_transform(principle_texts)

    def __call__(self, text: str) -> list[float]:
        cosines = self._principles @ self._vectorizer.transform([text]).T
        return [round(cosine, 6) for cosine in cosines.toarray().ravel().tolist()]
