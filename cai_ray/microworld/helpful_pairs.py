"""Helpfulness comparisons on harmless requests, as a person would make them; the oracle decides.

A full answer beats one with a lecture on top, and that beats a bare refusal.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from cai_ray.microworld.language import Message, Split, Style, answer, sample_request
from cai_ray.microworld.oracle import score

STYLES: tuple[Style, ...] = ("comply", "preach", "evade")  # best first


class HelpfulPair(NamedTuple):
    """Two answers to one harmless request, the more helpful one first."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    split: Split  # of the request's task: no task is on both sides


def sample_helpful_pairs(num_pairs: int, seed: int = 0, test_fraction: float = 0.2) -> list[HelpfulPair]:
    """`num_pairs` different pairs; round(num_pairs * test_fraction) of them are on held-out tasks, spread evenly.

    Raises ValueError when the fraction is outside [0, 1].
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction={test_fraction} must lie in [0, 1]")
    rng = random.Random(seed)
    splits: list[Split] = ["test" if k < round(num_pairs * test_fraction) else "train" for k in range(num_pairs)]
    rng.shuffle(splits)
    pairs: list[HelpfulPair] = []
    seen: set[tuple[str, str, str]] = set()
    for split in splits:
        while True:
            pair = _draw(rng, split)
            key = (str(pair.messages), pair.chosen, pair.rejected)
            if key not in seen:
                break
        seen.add(key)
        pairs.append(pair)
    return pairs


def _draw(rng: random.Random, split: Split) -> HelpfulPair:
    request = sample_request(rng, harmful=False, split=split)
    texts = [answer(rng, request.task, style) for style in rng.sample(STYLES, 2)]
    chosen, rejected = sorted(texts, key=lambda text: score(request.messages, text).helpful, reverse=True)
    return HelpfulPair(request.messages, chosen, rejected, split)
