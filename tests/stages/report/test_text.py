"""Text made safe to look at: what cannot be seen is spelt out, and nothing else changes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.stages.report.text import clipped, in_markdown, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("abc\u202edef", "abc⟦U+202E⟧def"),
        ("\x1b[2J\x00", "⟦U+001B⟧[2J⟦U+0000⟧"),
        ("a\u2028b\ufeff", "a⟦U+2028⟧b⟦U+FEFF⟧"),
        ("hidden \U000e0041", "hidden ⟦U+E0041⟧"),
        ("x\U000e0100", "x⟦U+E0100⟧"),
        ("مرحبا, שלום, 你好, naïve", "مرحبا, שלום, 你好, naïve"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_unseen_characters_are_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_nothing_unseen_is_left_and_twice_is_once(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    left = {char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}
    assert left <= set("\n\t\u200c\u200d")


@given(st.text(max_size=50), st.integers(1, 30))
def test_clipping_keeps_the_beginning_and_says_what_is_gone(text: str, most: int) -> None:
    short = clipped(text, most)
    assert short == text if len(text) <= most else short.startswith(text[:most]) and str(len(text) - most) in short


@given(st.text())
def test_markdown_is_one_line_without_a_live_character(text: str) -> None:
    line = in_markdown(text)
    assert "\n" not in line
    for position, char in enumerate(line):
        if char in "`*_[]<>|":
            assert line[position - 1] == "\\"
