"""Take out of a generated answer what is not part of the answer: talk about the revision, labels, leaks.

A model that revises tends to announce it ("Here is the revised response:"), to explain it afterwards
and to run on into the next turn of the dialogue. Trained on, such text teaches the policy to speak of
revisions nobody asked for. Every rule can be switched off and counts how often it fired.

Rules err on the side of leaving text alone: "Here is how to bake bread:" announces content, not a
revision, and stays. What is left over is the business of the gate `meta_commentary`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from cai_ray.config import Config
from cai_ray.quality.meta_commentary import drop_closer, drop_opener, mentions_revision
from cai_ray.quality.thoughts import without_thoughts

Step = Literal["answer", "critique"]


class CleaningConfig(Config):
    """Which cleaning rules run. The field names are also the keys of `Cleaned.counts` and the flags on a row."""

    unicode_nfc: bool = Field(True, description="Compose accents (NFC), so that equal texts are equal bytes.")
    ftfy: bool = Field(False, description="Repair wrongly decoded text such as 'cafÃ©'; needs the package ftfy.")
    ascii_fold: bool = Field(
        False, description="Write accents, curly quotes and dashes as ASCII. Letters without a counterpart stay."
    )
    control_characters: bool = Field(
        True, description="Drop zero-width and control characters: they cost tokens and hide text. CRLF becomes LF."
    )
    think_marks: bool = Field(True, description='Drop thoughts that leaked ("<think>...</think>", "[THINK]").')
    leaked_labels: bool = Field(
        True, description='Cut where the model runs on into a next turn ("RevisionRequest:", "Human:").'
    )
    role_labels: bool = Field(True, description='Drop a label before the answer ("Assistant:", "AI:", "Revision:").')
    meta_openers: bool = Field(True, description='Drop an announcement ("Here is the revised response:").')
    meta_closers: bool = Field(True, description='Drop a closing remark ("This revised response avoids ...").')
    wrapping_quotes: bool = Field(True, description="Drop double quotes around the whole answer.")

    @field_validator("ftfy")
    @classmethod
    def _installed(cls, wanted: bool) -> bool:
        if wanted and find_spec("ftfy") is None:
            raise ValueError(
                "ftfy is true but the package ftfy is not installed; `pip install ftfy` or set it to false"
            )
        return wanted


class Cleaned(NamedTuple):
    """A cleaned text ("" when nothing but meta-commentary was there) and, per rule that fired, how often."""

    text: str
    counts: dict[str, int]


def clean(text: str, config: CleaningConfig, step: Step = "answer") -> Cleaned:
    """Apply the rules until none has anything left to do; `clean(clean(x))` is `clean(x)`.

    `step` says what the text is: in an answer that opens with "Critique:" and goes on to a "Revision:",
    the revision is the answer; in a critique, the critique is.

    Never lengthens a text, except by `unicode_nfc`, `ftfy` and `ascii_fold`.
    """
    rules = _rules(config, step)
    counts: dict[str, int] = {}
    # One rule can uncover work for another (a quoted text that opens with a label), hence the rounds.
    # They end: each change by a rule of removal shortens the text, and the Unicode rules settle.
    while True:
        before = text
        for name, rule in rules:
            cleaned = rule(text)
            if cleaned != text:
                counts[name] = counts.get(name, 0) + 1
                text = cleaned
        if text == before:
            return Cleaned(text, counts)


@lru_cache(maxsize=64)
def _rules(config: CleaningConfig, step: Step) -> tuple[tuple[str, Callable[[str], str]], ...]:
    cut_leak = _cut_leak_in_critique if step == "critique" else _cut_leak_in_answer
    every: dict[str, Callable[[str], str]] = {
        "unicode_nfc": _compose,
        "ascii_fold": _fold_to_ascii,
        "control_characters": _drop_control_characters,
        "think_marks": without_thoughts,
        "leaked_labels": cut_leak,
        "role_labels": _drop_role_label,
        "meta_openers": _drop_meta_opener,
        "meta_closers": _drop_meta_closer,
        "wrapping_quotes": _unwrap_quotes,
    }
    if config.ftfy:
        every = {"ftfy": _ftfy_fixer(), **every}
    return tuple((name, rule) for name, rule in every.items() if getattr(config, name))


# --- Unicode -----------------------------------------------------------------------------------------


def _compose(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _ftfy_fixer() -> Callable[[str], str]:
    import ftfy

    # Mend wrong decoding only: curly quotes, ligatures and HTML entities are the author's own business.
    options = ftfy.TextFixerConfig(uncurl_quotes=False, fix_latin_ligatures=False, unescape_html=False)
    return lambda text: text if text.isascii() else ftfy.fix_text(text, options)


_ASCII_FORMS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f", " "),
        "\u2026": "...",
        "\u2022": "*",
        "\u00df": "ss",
        "\u00e6": "ae",
        "\u00c6": "AE",
        "\u00f8": "o",
        "\u00d8": "O",
        "\u0153": "oe",
        "\u0152": "OE",
        "\u0142": "l",
        "\u0141": "L",
    }
)


def _fold_to_ascii(text: str) -> str:
    if text.isascii():
        return text
    folded = []
    for character in text.translate(_ASCII_FORMS):
        base = unicodedata.normalize("NFKD", character)
        plain = "".join(part for part in base if part.isascii())
        # A letter with no ASCII counterpart is kept: dropping it would destroy the text, not fold it.
        folded.append(plain if plain and len(plain) >= len(base) - sum(map(unicodedata.combining, base)) else character)
    return unicodedata.normalize("NFC", "".join(folded))


# C0 and C1 controls but tab and line feed; soft hyphen; zero-width space, word joiner, BOM; bidi
# embeddings, overrides and isolates; lone surrogates, which no Parquet file can hold.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]"
)
# Joiners and direction marks carry meaning inside other scripts and emoji; next to ASCII they are debris.
_STRAY_JOINER = re.compile("(?<![^\x00-\x7f])[\u200c-\u200f]|[\u200c-\u200f](?![^\x00-\x7f])")
_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")


def _drop_control_characters(text: str) -> str:
    if text.replace("\n", "").isprintable():  # ten times as quick as the search, and true of nearly every text
        return text
    if _CONTROL.search(text) is not None:
        text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    return text if text.isascii() else _STRAY_JOINER.sub("", text)


# --- Labels and leaks --------------------------------------------------------------------------------

_ROLE_LABEL = re.compile(
    r"\s*[*_\[]{0,3}(?:(?:AI )?(?:Assistant|ASSISTANT)|Chatbot|Revision|AI(?: [Mm]odel)?(?=[\]*_]*:[*_]*\s+[^a-z\s]))"
    r"[\]*_]{0,3}:[*_]{0,2}(?:\s+|\Z)"
)


def _drop_role_label(text: str) -> str:
    """ "Assistant: Hello" -> "Hello"; "AI: a field of study" is a definition and stays."""
    end = 0
    while match := _ROLE_LABEL.match(text, end):
        end = match.end()
    return text[end:]


# The request labels are no English words, so they are leaks wherever they stand; the others only where
# a turn starts: at the beginning of a line.
_LEAK = re.compile(
    r"(?:^|(?<=\s))[*_#>\[ \t]*(?P<request>Critique ?Request|Revision ?Request)[\]*_]*\s*:[*_]*\s*"
    r"|^[*_#> \t]*(?P<turn>Human|Assistant|Critique|Revision)[*_]*:[*_]*(?:\s+|\Z)",
    re.MULTILINE,
)
# Labels of others, one behind the other.
_FOREIGN = re.compile(r"[*_#>\[ \t]*(?:Critique ?Request|Revision ?Request|Human|Critique)[\]*_]*\s*:[*_]*(?:\s+|\Z)")
_ANSWER_TURN = re.compile(r"^[*_#> \t]*(?:Revision|Assistant)[*_]*:[*_]*\s+(?=\S)", re.MULTILINE)
_LABEL_STEMS = ("equest", "Human", "Assistant", "Critique", "Revision")


def _cut_leak(text: str, step: Step) -> str:
    if ":" not in text or not any(stem in text for stem in _LABEL_STEMS):
        return text
    start = 0
    while (match := _LEAK.search(text, start)) is not None:
        if text[start : match.start()].strip():
            return text[: match.start()].rstrip()
        if match["turn"] not in ("Assistant", "Revision"):
            break
        start = match.end()  # the answer's own label, no leak; look behind it
    if match is None:
        return text
    if step == "answer":  # someone else's turn came first: the answer is the turn that follows it
        answer = _ANSWER_TURN.search(text, match.end())
        if answer is not None:
            return text[answer.end() :]
    end = match.end()
    while again := _FOREIGN.match(text, end):  # a model that repeats itself writes a thousand of them
        end = again.end()
    return text[:start] + text[end:]


def _cut_leak_in_answer(text: str) -> str:
    return _cut_leak(text, "answer")


def _cut_leak_in_critique(text: str) -> str:
    return _cut_leak(text, "critique")


# --- Meta-commentary and quotes ----------------------------------------------------------------------


def _drop_meta_opener(text: str) -> str:
    return drop_opener(text) if mentions_revision(text) else text


def _drop_meta_closer(text: str) -> str:
    return drop_closer(text) if mentions_revision(text) else text


def _unwrap_quotes(text: str) -> str:
    """'"Hello there."' -> 'Hello there.'; '"Yes," she said, "no."' holds more quotes and stays."""
    if not text or text[-1] not in '"\u201d \n\t':
        return text
    inner = text.strip()
    if len(inner) < 2:
        return text
    opened, closed = inner[0], inner[-1]
    if (opened, closed) not in (('"', '"'), ("\u201c", "\u201d")):
        return text
    inner = inner[1:-1]
    return text if opened in inner or closed in inner else inner.strip()
