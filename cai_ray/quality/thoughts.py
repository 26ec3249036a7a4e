"""Thoughts that leaked into an answer: marks of reasoning that nobody split off.

Tested in tests/quality/test_cleaning.py.
"""

from __future__ import annotations

import re

from cai_ray.markup import THINK_MARKS

# Quoted or set as code it is text about marks.
_QUOTED_BEFORE, _QUOTED_BEHIND = r"(?<![`\"'\\])", r"(?![`\"'])"
_PAIRS = tuple(
    (
        re.compile(f"{_QUOTED_BEFORE}{re.escape(opened)}{_QUOTED_BEHIND}", re.IGNORECASE),
        re.compile(f"(?<![`\"'\\\\]){re.escape(closed)}{_QUOTED_BEHIND}", re.IGNORECASE),
    )
    for opened, closed in THINK_MARKS
)


def without_thoughts(text: str) -> str:
    """The text without its thoughts; a text without marks stays as it is.

    A thought goes from its opening to its closing mark. Without an opening mark it goes from the start of the text,
    without a closing one, when a line begins with the opening mark, to the end of it. "" when all of it is thought.
    """
    if "<" not in text and "[" not in text:
        return text
    for opening, closing in _PAIRS:
        while (end := closing.search(text)) is not None:
            start = next(reversed(list(opening.finditer(text, 0, end.start()))), None)
            before = text[: start.start()].rstrip() if start else ""
            text = f"{before}\n\n{text[end.end() :].lstrip()}".strip()
        for start in opening.finditer(text):
            if not text[: start.start()].rpartition("\n")[2].strip():
                text = text[: start.start()].rstrip()
                break
    return text
