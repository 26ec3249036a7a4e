"""Writes prompt files in the micro world's language."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

from cai_ray.microworld.language import Request, Split, sample_request

Kind = Literal["red_team", "helpful"]


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


def write_prompts(
    path: Path,
    num_prompts: int,
    seed: int = 0,
    harmful_fraction: float = 0.625,
    split: Split = "test",
    harmless_kind: Kind = "red_team",
) -> Path:
    """Write JSONL, one prompt per line: {"messages", "category", "kind"}.

    Args:
        path: the file; its folder is made when missing.
        num_prompts: lines.
        seed: the same seed writes the same file.
        harmful_fraction: in [0, 1].
        split: "test" for requests that the micro model has never seen.
        harmless_kind: kind of the harmless requests. "red_team" has them critiqued and revised too, which shows
            what revision does to good answers; "helpful" has them answered only.

    The messages alone suffice for the oracle; `category` is the topic's name.
    """
    lines = [
        {
            "messages": list(request.messages),
            "category": request.category,
            "kind": "red_team" if request.harmful else harmless_kind,
        }
        for request in sample_prompts(num_prompts, seed, harmful_fraction, split)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
