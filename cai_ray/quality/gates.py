"""Judge a text instead of mending it: no-ops, echoes, boilerplate, meta-commentary, no gain, near duplicates.

A gate is `off`, flags the row or drops it, by config; what it drops is counted under the gate's own
`DropReason`. Row gates look at one revision; near duplicates need the whole data set.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator
from rapidfuzz.distance import Indel

from cai_ray.config import Config
from cai_ray.dropped import DropReason
from cai_ray.quality.meta_commentary import has_meta_commentary

Gate = Literal["off", "flag", "drop"]
_FEWEST_WORDS = 5  # of a revision that can be said to repeat its critique

# Comfort and refusal formulas that over-trained harmlessness policies fall back on (paper, section 4.3).
# Regular expressions, matched against lower-case text from the start of a word.
STOCK_PHRASES = (
    r"valid, valued,? and cared for",
    r"you are not alone",
    r"as an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?",
    r"i(?:'m| am) (?:just |only )?an ai(?: language)?(?: model| assistant)?",
    r"i(?:'m| am) (?:not able to|unable to) (?:help|assist|engage) with (?:that|this)",
    r"i (?:can't|cannot|can not) (?:help|assist) (?:you )?with (?:that|this)(?: request)?",
    r"it(?:'s| is) (?:important|essential|crucial|worth) (?:to (?:note|remember)|noting|remembering)(?: that)?",
    r"(?:please )?remember that everyone deserves",
    r"treat(?:ing)? (?:others|everyone|each other|all people) with (?:dignity|kindness|respect)",
    (
        r"(?:seek|reach out to|consult|talk to) (?:a |an )?(?:licensed |qualified |trained |trusted )?"
        r"(?:mental health )?(?:professional|counselor|counsellor|therapist)(?: for (?:help|support|guidance))?"
    ),
    r"if you have any (?:other|further|more) questions",
    r"(?:please )?(?:don't|do not) hesitate to (?:ask|reach out)",
    r"i(?:'m| am) here to (?:help|listen|support you)",
)


class GatesConfig(Config):
    """What each gate does, and where it draws its line."""

    no_op: Gate = Field(
        "flag", description="The revision (nearly) repeats the answer before it. Right where nothing was wrong."
    )
    no_op_similarity: float = Field(
        0.98, gt=0.0, le=1.0, description="Similarity of the two texts that counts as a no-op."
    )
    repeats_critique: Gate = Field(
        "flag",
        description="The revision (nearly) repeats its critique, or how it begins: the model goes on criticising, and "
        "answers nobody. Texts of fewer than five words are not judged.",
    )
    repeats_critique_similarity: float = Field(
        0.8, gt=0.0, le=1.0, description="Similarity of the two texts that counts as a repeated critique."
    )
    boilerplate: Gate = Field("flag", description="Stock phrases and repetition make up most of the text.")
    boilerplate_share: float = Field(0.4, gt=0.0, le=1.0, description="Share of words that counts as boilerplate.")
    boilerplate_phrases: tuple[str, ...] = Field(
        STOCK_PHRASES,
        description="Regular expressions of stock phrases, in lower case; a match starts at the start of a word.",
    )
    meta_commentary: Gate = Field("flag", description="The text still speaks of its own revision after cleaning.")
    not_improved: Gate = Field("off", description="A scorer finds the revision no better than the answer before it.")
    min_improvement: float = Field(0.0, description="Scores must rise by more than this, in the scorer's unit.")
    incoherent: Gate = Field(
        "off",
        description="The model itself finds its answer, critique or revision unlikely: word salad. Needs an engine of "
        "ours, and log-probabilities of every row.",
    )
    incoherent_below: float = Field(
        -2.5, lt=0.0, description="Mean log-probability per token, nats, at temperature 1, that counts as incoherent."
    )
    near_duplicate: Gate = Field("off", description="The text nearly repeats another one of the data set.")
    near_duplicate_jaccard: float = Field(
        0.8, gt=0.0, le=1.0, description="Jaccard similarity of the word 5-shingles that counts as near duplicate."
    )

    @field_validator("boilerplate_phrases")
    @classmethod
    def _compile(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in phrases:
            if re.sub(r"\\.", "", phrase) != re.sub(r"\\.", "", phrase).lower():
                raise ValueError(f"boilerplate_phrases: {phrase!r} has capital letters; phrases match lower-case text")
            try:
                re.compile(phrase)
            except re.error as error:
                raise ValueError(
                    f"boilerplate_phrases: {phrase!r} is not a regular expression ({error}); escape special characters"
                ) from error
        return phrases


class Flag(NamedTuple):
    """One gate that fired."""

    gate: DropReason  # its value is the flag on the row
    drop: bool  # False: keep the row, with the flag
    detail: str  # for a person; holds no text of the row


def row_gates(
    before: str,
    after: str,
    config: GatesConfig,
    critique: str | None = None,
    score_before: float | None = None,
    score_after: float | None = None,
) -> list[Flag]:
    """The gates that fire for one revision `after` of the answer `before`; all texts already cleaned.

    Scores: higher is better, any unit. Raises ValueError when `not_improved` is on without them.
    """
    flags = []
    if config.no_op != "off" and is_no_op(before, after, config.no_op_similarity):
        flags.append(Flag(DropReason.NO_OP, config.no_op == "drop", f"similarity >= {config.no_op_similarity}"))
    if config.repeats_critique != "off" and critique is not None:
        threshold = config.repeats_critique_similarity
        if repeats_critique(critique, after, threshold):
            drops = config.repeats_critique == "drop"
            flags.append(Flag(DropReason.REPEATS_CRITIQUE, drops, f"similarity >= {threshold}"))
    if config.boilerplate != "off":
        share = boilerplate_score(after, config.boilerplate_phrases)
        if share >= config.boilerplate_share:
            flags.append(Flag(DropReason.BOILERPLATE, config.boilerplate == "drop", f"{share:.0%} of the words"))
    if config.meta_commentary != "off" and has_meta_commentary(after):
        flags.append(Flag(DropReason.META_COMMENTARY, config.meta_commentary == "drop", "speaks of its own revision"))
    if config.not_improved != "off":
        if score_before is None or score_after is None:
            raise ValueError('gates.not_improved needs a score before and after; set it to "off" or name a scorer')
        gain = score_after - score_before
        if not gain > config.min_improvement:  # also true of a gain that is not a number
            detail = f"score rose by {gain:.4g}, not by more than {config.min_improvement}"
            flags.append(Flag(DropReason.NOT_IMPROVED, config.not_improved == "drop", detail))
    return flags


def incoherent_flag(logprobs: Sequence[float] | None, config: GatesConfig) -> Flag | None:
    """The gate's word on one text by its tokens' log-probabilities, nats; None where it has none to say."""
    if config.incoherent == "off" or not logprobs or not is_incoherent(logprobs, config.incoherent_below):
        return None
    detail = f"{fmean(logprobs):.2f} nats per token, below {config.incoherent_below:g}"
    return Flag(DropReason.INCOHERENT, config.incoherent == "drop", detail)


def is_incoherent(logprobs: Sequence[float], below: float) -> bool:
    """Whether the mean of these, nats per token, is below `below`; needs at least one."""
    return fmean(logprobs) < below


def is_no_op(before: str, after: str, threshold: float) -> bool:
    """Whether `after` repeats `before`: normalised indel similarity >= `threshold`, in [0, 1].

    White space is not significant. Two empty texts are equal.
    """
    first, second = " ".join(before.split()), " ".join(after.split())
    # The cutoff lets rapidfuzz stop early; below it the similarity is reported as 0.
    return first == second or Indel.normalized_similarity(first, second, score_cutoff=threshold) >= threshold


def repeats_critique(critique: str, revision: str, threshold: float) -> bool:
    """Whether the revision repeats the critique, or as much of its beginning as the revision is long.

    Normalised indel similarity >= `threshold`, in [0, 1]; white space is not significant. False for a revision of fewer
    than five words, with which a critique may well begin ("No.").
    """
    words = revision.split()
    if len(words) < _FEWEST_WORDS:
        return False
    after = " ".join(words)
    return is_no_op(" ".join(critique.split())[: len(after)], after, threshold)


def boilerplate_score(text: str, phrases: Sequence[str] = STOCK_PHRASES, ngram: int = 3) -> float:
    """Share of the words, in [0, 1], that stand in a stock phrase or repeat an earlier n-gram of the text.

    0 for an empty text.
    """
    lowered = text.lower()
    found = list(_WORD.finditer(lowered))
    if not found:
        return 0.0
    words, starts = [word[0] for word in found], [word.start() for word in found]
    covered = [False] * len(words)
    grams = list(zip(*(words[start:] for start in range(ngram)), strict=False))
    if len(set(grams)) < len(grams):
        seen: set[tuple[str, ...]] = set()
        for index, gram in enumerate(grams):
            if gram in seen:
                covered[index : index + ngram] = [True] * ngram
            seen.add(gram)
    pattern = _any_of(tuple(phrases))
    for match in pattern.finditer(lowered) if pattern else ():
        first = bisect_left(starts, match.start())
        last = min(len(words), first + len(_WORD.findall(match[0])))
        covered[first:last] = [True] * (last - first)
    return sum(covered) / len(words)


_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


@lru_cache(maxsize=16)
def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    # Tried at the starts of words only, and against lower-case text: ignoring case in the search costs twice.
    return re.compile(rf"\b(?:{'|'.join(f'(?:{phrase})' for phrase in phrases)})") if phrases else None


# --- Near duplicates ---------------------------------------------------------------------------------

_SHINGLE_WORDS = 5
# Named and not left to the default: signatures are stored, and compare only within one scheme.
_SCHEME: Literal["affine32"] = "affine32"


def near_duplicates(ids_and_texts: Iterable[tuple[str, str]], threshold: float, num_perm: int = 128) -> dict[str, str]:
    """`{id of a duplicate: id that is kept}`; see `near_duplicates_of_signatures`. Texts are not held in memory."""
    return near_duplicates_of_signatures(
        ((row_id, signature(text, num_perm)) for row_id, text in ids_and_texts), threshold
    )


def near_duplicates_of_signatures(ids_and_signatures: Iterable[tuple[str, bytes]], threshold: float) -> dict[str, str]:
    """`{id of a duplicate: id that is kept}` by MinHash LSH over the signatures of all texts.

    Ids are taken in sorted order, whatever order they come in: each is compared with the ids kept so far
    and, where the estimated Jaccard similarity reaches `threshold` in (0, 1], is a duplicate of the
    smallest of them. So the smallest id of a cluster stays, and every dropped one resembles a kept one.
    The estimate's standard error is about 1/(2 sqrt(num_perm)), 0.04 for 128; equal texts are always found.

    Holds every signature (4 x num_perm bytes) and an index of the kept ones. Raises ValueError on a
    repeated id and on signatures of different length.
    """
    from datasketch import MinHash, MinHashLSH  # pulls in scipy; a run without this gate need not wait for it

    ordered = sorted(ids_and_signatures)
    duplicates: dict[str, str] = {}
    if not ordered:
        return duplicates
    num_perm = len(ordered[0][1]) // 4
    permutations = _permutations(num_perm)
    # Weighted to recall: a false candidate costs one comparison, a missed one stays in the data. (1, 0)
    # would ask for perfect recall and compare everything.
    index = MinHashLSH(threshold=threshold, num_perm=num_perm, weights=(0.1, 0.9))
    kept: dict[str, Any] = {}
    previous = None
    for row_id, packed in ordered:
        if row_id == previous:
            raise ValueError(f"id {row_id!r} occurs twice; near duplicates need unique ids")
        if len(packed) != 4 * num_perm:
            raise ValueError(
                f"the signature of {row_id!r} has {len(packed)} bytes, not {4 * num_perm}; use one num_perm"
            )
        previous = row_id
        sketch = MinHash(hashvalues=_unpack(packed), permutations=permutations, scheme=_SCHEME)
        same = [other for other in index.query(sketch) if sketch.jaccard(kept[other]) >= threshold]
        if same:
            duplicates[row_id] = min(same)
        else:
            index.insert(row_id, sketch, check_duplication=False)
            kept[row_id] = sketch
    return duplicates


def signature(text: str, num_perm: int = 128) -> bytes:
    """MinHash of the text's word 5-shingles, `num_perm` little-endian uint32 (4 x num_perm bytes).

    A text of fewer than five words is one shingle. Case, punctuation and white space are not
    significant. Equal on every machine, so that workers can compute signatures in parallel.
    """
    from datasketch import MinHash

    sketch = MinHash(num_perm=num_perm, permutations=_permutations(num_perm), scheme=_SCHEME)
    sketch.update_batch(_shingles(text))
    return bytes(sketch.hashvalues.astype("<u4").tobytes())


def _shingles(text: str) -> Iterator[bytes]:
    words = [match[0] for match in _WORD.finditer(text.casefold())] or text.split()
    for start in range(max(1, len(words) - _SHINGLE_WORDS + 1)):
        yield " ".join(words[start : start + _SHINGLE_WORDS]).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=4)
def _permutations(num_perm: int) -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=num_perm, seed=1, scheme=_SCHEME).permutations  # drawing them costs more than using them


def _unpack(packed: bytes) -> Any:
    import numpy

    return numpy.frombuffer(packed, dtype="<u4").astype(numpy.uint32)
