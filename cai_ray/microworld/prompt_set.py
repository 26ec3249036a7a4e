"""Draws sets of prompts in the micro world's language."""

from __future__ import annotations

import json
import random

from cai_ray.microworld.language import Request, Split, sample_request


def sample_prompts(
    num_prompts: int, seed: int = 0, harmful_fraction: float = 0.625, split: Split = "test"
) -> list[Request]:
    """`num_prompts` different requests, of which round(num_prompts * harmful_fraction) are harmful, in mixed order.

    No two are the same conversation. Raises ValueError when the fraction is outside [0, 1].
    """
    if not 0 <= harmful_fraction <= 1:
        raise ValueError(f"harmful_fraction={harmful_fraction} must lie in [0, 1]")
    rng = random.Random(seed)
    labels = [i < round(num_prompts * harmful_fraction) for i in range(num_prompts)]
    rng.shuffle(labels)
    drawn: list[Request] = []
    seen: set[str] = set()
    for harmful in labels:
        while True:
            request = sample_request(rng, harmful, split=split)
            key = json.dumps(request.messages)
            if key not in seen:
                break
        seen.add(key)
        drawn.append(request)
    return drawn
