"""Which principle a round is asked with: by chance, weight, similarity or turn.

Tested in tests/constitution/test_principles.py.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cai_ray.config import Config
from cai_ray.constitution.principles import Constitution, ConstitutionError, Mistake, Principle, Use
from cai_ray.seeding import digest, rng_for


class PrincipleChoice(Config):
    """How a principle is drawn for each round."""

    method: Literal["random", "weighted", "contextual", "round_robin"] = Field(
        "random", description='The paper draws at random, with replacement (section 3.1). "contextual": by similarity.'
    )
    replacement: bool = Field(True, description="False: no principle twice in one row.")
    top_k: int = Field(4, ge=1, description="contextual: how many of the most similar principles may be drawn.")
    temperature: float = Field(
        0.1,
        ge=0.0,
        allow_inf_nan=False,
        description="contextual: of the softmax over similarities; 0: the nearest.",
    )


def check_choice(constitution: Constitution, choice: PrincipleChoice, num_rounds: int, use: Use = "revision") -> None:
    """Raises ConstitutionError when `num_rounds` draws cannot be made; call it before any engine starts."""
    num_principles = len(constitution.serving(use))
    if num_principles == 0 and num_rounds > 0:
        key = {"revision": "revision_request", "comparison": "comparison_question", "rubric": "rubric_question"}[use]
        mistake = Mistake(None, "principles", "", f"none of them serves {use}", f"give at least one a {key}")
        raise ConstitutionError(constitution.name, [mistake])
    if not choice.replacement and num_rounds > num_principles:
        rule = f"without replacement there can be no more rounds than principles for {use} ({num_principles})"
        fix = "ask for fewer rounds, set replacement=true, or add principles"
        raise ConstitutionError(constitution.name, [Mistake(None, "rounds", str(num_rounds), rule, fix)])


def draw(
    constitution: Constitution,
    choice: PrincipleChoice,
    *,
    run_seed: int,
    row_id: str,
    num_rounds: int,
    stage: str = "revise",
    use: Use = "revision",
    similarities: Sequence[float] | None = None,
) -> list[Principle]:
    """The principles of one row, one per round, [num_rounds].

    Depends on nothing but its arguments, and draw k not on `num_rounds`: the same row gets the same principles on
    any cluster, in any order, and the first rounds of a longer run are those of a shorter one.
    `similarities` is [len(constitution.serving(use))], needed by "contextual" alone.
    """
    check_choice(constitution, choice, num_rounds, use)
    principles = constitution.serving(use)
    if choice.method == "round_robin":
        # A hashed start keeps the load even over rows without counting them.
        start = int.from_bytes(digest(run_seed, stage, row_id, "round_robin", num_bytes=8), "big")
        return [principles[(start + k) % len(principles)] for k in range(num_rounds)]
    if choice.method == "contextual" and (similarities is None or len(similarities) != len(principles)):
        got = "none" if similarities is None else str(len(similarities))
        raise ValueError(f"contextual choice needs {len(principles)} similarities, one per principle, got {got}")
    ties: list[float] = []
    if choice.method == "contextual":
        # Equal similarities (0, where no word is shared) are ordered anew for each row, or the file's first principles
        # would get all of them.
        shuffle = rng_for(run_seed, stage, row_id, "principle/ties")
        ties = [shuffle.random() for _ in principles]
    drawn: list[int] = []
    for k in range(num_rounds):
        left = [i for i in range(len(principles)) if choice.replacement or i not in drawn]
        if choice.method == "contextual" and similarities is not None:
            num_drawn = 0 if choice.replacement else len(drawn)
            nearest = sorted(left, key=lambda i: (-similarities[i], ties[i]))
            left, weights = _contextual(nearest, similarities, choice, num_drawn)
        else:
            weights = [principles[i].weight if choice.method == "weighted" else 1.0 for i in left]
        uniform = rng_for(run_seed, stage, row_id, f"principle/{k}").random()
        drawn.append(left[_pick(weights, uniform)])
    return [principles[i] for i in drawn]


def _contextual(
    nearest: list[int], similarities: Sequence[float], choice: PrincipleChoice, num_drawn: int
) -> tuple[list[int], list[float]]:
    """The candidates among those left, `nearest` first, and their softmax weights.

    Without replacement the top k are used up before the next k come into play, so that the matching principles
    are the ones that get drawn.
    """
    candidates = nearest[: choice.top_k - num_drawn % choice.top_k]
    if choice.temperature == 0.0:
        return candidates[:1], [1.0]
    best = similarities[candidates[0]]
    # Rounded, because exp() may differ in its last bit between machines and draws must not.
    return candidates, [round(math.exp((similarities[i] - best) / choice.temperature), 9) for i in candidates]


def _pick(weights: Sequence[float], uniform: float) -> int:
    """The index that `uniform` in [0, 1) falls on. Own code: only Random.random() is stable over Python versions."""
    cumulative = list(itertools.accumulate(weights))
    return min(bisect.bisect_right(cumulative, uniform * cumulative[-1]), len(weights) - 1)
