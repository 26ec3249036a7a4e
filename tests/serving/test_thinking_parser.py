"""Thinking and answer, however the text is cut into pieces, are those of the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.chat import split_thinking
from cai_ray.config import ThinkingConfig
from cai_ray.serving.thinking_parser import ThinkingStream


def parted(pieces: Sequence[str], config: ThinkingConfig) -> tuple[str, str]:
    stream = ThinkingStream(config)
    parts = [stream.feed(piece, number == len(pieces)) for number, piece in enumerate(pieces, 1)]
    return "".join(thinking for thinking, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(
    ("pieces", "opened", "expected"),
    [
        (["<th", "ink>wh", "y</thi", "nk>\n\nanswer ", "here"], False, ("why", "answer here")),
        (["why</think", ">", "\n", "answer"], True, ("why", "answer")),
        (["an answer", " with < and </think in it"], False, ("", "an answer with < and </think in it")),
        (["<thi"], False, ("", "<thi")),
        (["<think>never", " closed </th"], False, ("never closed </th", "")),
        (["", ""], False, ("", "")),
    ],
)
def test_cuts(pieces: list[str], opened: bool, expected: tuple[str, str]) -> None:
    assert parted(pieces, ThinkingConfig(opened_by_template=opened)) == expected


TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<", "/think", "a", " ", "\n", "b c"]), max_size=8).map(
    "".join
)


@given(TEXTS, st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_pieces_make_the_whole(text: str, cuts: list[int], opened: bool) -> None:
    config = ThinkingConfig(opened_by_template=opened)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    found = parted(pieces, config)
    assert found == parted([text], config)
    if opened or text.lstrip().startswith("<think>"):
        thinking, answer = split_thinking(text, config)
        if not (opened and text.lstrip().startswith("<think>")):
            assert (found[0].strip(), found[1].strip()) == (thinking, answer)
