"""What a moderation endpoint replies about one text: flagged or not, in which categories, and how surely."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Moderated(NamedTuple):
    """A verdict on one text. Categories are spelt "self-harm-intent", whatever the server's spelling."""

    flagged: bool
    categories: dict[str, bool]
    scores: dict[str, float]  # category -> [0, 1]; may lack categories


def category_name(name: str) -> str:
    """ "self_harm", "self-harm" -> "self-harm"; "self-harm/intent", "self_harm_intent" -> "self-harm-intent"."""
    return re.sub(r"[/_\s-]+", "-", name.strip().lower())


def read_moderation(body: Any) -> Moderated | None:
    """The first result of a decoded reply of /v1/moderations; None when it is not one.

    A category that a server names in two spellings is flagged where either is, and has the higher score.
    """
    results = body.get("results") if isinstance(body, Mapping) else None
    if not isinstance(results, list) or not results or not isinstance(results[0], Mapping):
        return None
    flagged, flags, scores = (results[0].get(key) for key in ("flagged", "categories", "category_scores"))
    flags, scores = ({} if given is None else given for given in (flags, scores))
    if not isinstance(flagged, bool) or not isinstance(flags, Mapping) or not isinstance(scores, Mapping):
        return None
    categories: dict[str, bool] = {}
    for name, flag in flags.items():
        if flag is not None and not isinstance(flag, bool):
            return None
        key = category_name(str(name))  # null: the category does not apply to text
        categories[key] = categories.get(key, False) or bool(flag)
    found: dict[str, float] = {}
    for name, score in scores.items():
        if score is None:
            continue
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1 or math.isnan(score):
            return None
        key = category_name(str(name))
        found[key] = max(found.get(key, 0.0), float(score))
    return Moderated(flagged, categories, found)
