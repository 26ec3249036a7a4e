"""Answers on their way from an engine to a proof."""

from __future__ import annotations

from pathlib import Path

from cai_ray.artifacts.storage import Storage
from cai_ray.engines.conversations.sampled import FOLDER, MOST_TOKENS, Sampled, packed, read_sampled, write_sampled

SHORT, LONGER = Sampled((1, 2), (3,), (-0.5,)), Sampled((1, 2, 3), (4, 5), (-1.0, -2.0))


def test_the_shortest_are_read_back(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    write_sampled(folder, "b", [packed(LONGER), None])
    write_sampled(folder, "a", [None, packed(SHORT)])
    assert read_sampled(folder, 4) == [SHORT, LONGER]
    assert read_sampled(folder, 1) == [SHORT]


def test_long_ones_and_none_are_not_kept(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    assert packed(None) is None
    assert packed(Sampled((1,) * MOST_TOKENS, (2,), (-1.0,))) is None
    write_sampled(folder, "a", [None])
    assert read_sampled(folder, 4) == []


def test_a_damaged_file_is_no_evidence(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    write_sampled(folder, "a", [packed(SHORT)])
    folder.write(f"{FOLDER}/b.json", b"[{")
    assert read_sampled(folder, 4) == [SHORT]
