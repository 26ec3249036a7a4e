"""Text of models and of people, made safe to look at: what cannot be seen is spelt out, what is long is cut.

HTML is escaped where the page is rendered; this is about what escaping lets through. A right-to-left override turns
a sentence around, a control character moves a terminal's cursor, tag characters hide a message in plain sight.
"""

from __future__ import annotations

import html
import re
import unicodedata

# Joiners are part of how some scripts and emoji are written.
_JOINERS = frozenset("\u200c\u200d")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_PLAIN = re.compile(r"[\x20-\x7e\n\t]*")
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")


def visible(text: str) -> str:
    """`text` with control, bidirectional and other unseen characters spelt out: U+202E becomes "⟦U+202E⟧".

    Line feeds and tabs stay; so do the joiners of scripts and emoji.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(f"⟦U+{ord(char):04X}⟧" if _is_hidden(char) else char for char in text)


def _is_hidden(char: str) -> bool:
    if char in "\n\t" or char in _JOINERS:
        return False
    return unicodedata.category(char) in _HIDDEN_CATEGORIES or 0xE0100 <= ord(char) <= 0xE01EF


def clipped(text: str, most: int) -> str:
    """At most `most` characters, and how many were cut."""
    return text if len(text) <= most else f"{text[:most]} … [{len(text) - most:,} more characters]"


def in_markdown(text: str) -> str:
    """One line of Markdown that shows `text` and does nothing else."""
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(visible(text).split()), quote=False))
