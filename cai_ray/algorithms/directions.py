"""The direction of refusal in the residual stream: found as a difference of means, taken out, added, chosen.

Directional ablation of Arditi et al. 2024 (arXiv 2406.11717). Arrays are numpy's; what is applied to weights and
activations works on torch tensors as well, whose `@` and broadcasting are the same. d: width of the residual stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

NEGLIGIBLE_GAIN = 1e-3  # of the largest; where a norm's gain is smaller, nothing can be sent back through it
MOST_DEPTH = 0.8  # a direction of the last fifth of the layers is next to the output, and not chosen (section 2.3)


# --- Finding ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """What is known of some activations: their sum, float64 [...], and how many there were, >= 0."""

    total: np.ndarray
    num: int

    @classmethod
    def of(cls, activations: Any) -> Sums:
        """Of activations [num, ...] of any precision."""
        found = np.asarray(activations)
        return cls(found.sum(axis=0, dtype=np.float64), len(found))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.num + other.num)

    @property
    def mean(self) -> np.ndarray:
        """[...]. Raises ValueError where there was nothing."""
        if not self.num:
            raise ValueError("the mean of no activations is asked for; there must be at least one prompt of each class")
        return self.total / self.num


def merged(parts: Iterable[Sums]) -> Sums:
    """The sums of everything that any part has seen; of at least one part."""
    return reduce(Sums.__add__, parts)


def difference_of_means(harmful: Sums, harmless: Sums) -> np.ndarray:
    """mean(harmful) - mean(harmless), float64, of the shape of one activation."""
    return harmful.mean - harmless.mean


def unit(vector: Any) -> np.ndarray:
    """A vector [d] at length 1, float64. Raises ValueError for one without a direction."""
    found = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(found))
    if not math.isfinite(length) or length == 0:
        raise ValueError(f"a vector of length {length} has no direction; the two classes have the same mean there")
    return found / length


# --- Applying --------------------------------------------------------------------------------------------


def without(activations: Any, direction: Any) -> Any:
    """x - (x.r) r for every x of [..., d], r a unit vector [d]; for embeddings too, whose rows are written."""
    return activations - (activations @ direction)[..., None] * direction


def orthogonalised(weight: Any, direction: Any) -> Any:
    """W - r (r^T W) for W [d, d_in], as a linear layer that writes to the residual stream holds it: W x has no r."""
    return weight - direction[:, None] * (direction @ weight)[None, :]


def behind_gain(direction: Any, gain: Any) -> tuple[np.ndarray, np.ndarray]:
    """(u, v), [d], v.u = 1: x - u (v.x) has no `direction` left once it is normalised and multiplied by `gain` [d].

    A norm with a gain g stands between the matrix and the residual stream (Gemma 2 and 3): what is written is
    g * x / rms(x). With v = g * r and u = r / g that is the projection of what was written, but for rms(x), which is
    taken of the shorter x: the direction is gone exactly, the rest is longer by rms(x) / rms(x - u (v.x)). Where the
    gain is negligible u is 0. Raises ValueError where that leaves nothing.
    """
    r, g = np.asarray(direction, np.float64), np.asarray(gain, np.float64)
    usable = np.abs(g) > NEGLIGIBLE_GAIN * np.abs(g).max()
    u = np.where(usable, r / np.where(usable, g, 1.0), 0.0)
    v = g * r
    share = float(v @ u)
    if share <= 0:
        raise ValueError("the norm's gain is 0 wherever the direction is not; there is nothing to take out")
    return u / share, v


def sheared(weight: Any, u: Any, v: Any) -> Any:
    """W - u (v^T W) for W [d, d_in], u and v as `behind_gain` gives them."""
    return weight - u[:, None] * (v @ weight)[None, :]


# --- Choosing --------------------------------------------------------------------------------------------


def refusal_score(logprobs: Any, refusal_ids: Sequence[int]) -> float:
    """log P - log(1 - P), nats, P the probability [vocab] of a first token that begins a refusal (section 2.3).

    Above 0 the model is more likely to refuse than not.
    """
    found = np.asarray(logprobs, np.float64)
    refuses = np.zeros(found.shape[-1], bool)
    refuses[list(refusal_ids)] = True
    return _logsumexp(found[refuses]) - _logsumexp(found[~refuses])


def _logsumexp(values: np.ndarray) -> float:
    most = float(values.max(initial=-np.inf))
    return most if not math.isfinite(most) else most + math.log(float(np.exp(values - most).sum()))


def kl(before: Any, after: Any) -> float:
    """KL(before || after), nats, >= 0, of two log-distributions [vocab] of the next token."""
    one, other = np.asarray(before, np.float64), np.asarray(after, np.float64)
    seen = np.isfinite(one)
    return max(0.0, float((np.exp(one[seen]) * (one[seen] - other[seen])).sum()))


def candidate_layers(num_layers: int, step: int = 1) -> list[int]:
    """Layers whose input is looked at: from 1 on, every `step`-th, without the last fifth; none of a single layer."""
    return list(range(1, min(num_layers, max(2, math.floor(MOST_DEPTH * num_layers))), step))


@dataclass(frozen=True)
class Candidate:
    """A direction as it did on the validation prompts.

    Attributes:
        layer: whose input it was found in, >= 1; `position`: of the template's last tokens, from -1 backwards.
        ablated_score: mean refusal score of harmful prompts without the direction.
        induced_score: the same of harmless prompts with the direction added.
        kl: mean KL of the first token of harmless prompts without the direction, nats.
    """

    layer: int
    position: int
    ablated_score: float
    induced_score: float
    kl: float


def chosen(candidates: Sequence[Candidate], max_kl: float) -> Candidate:
    """The one that refuses least, of those that disturb harmless prompts by at most `max_kl` and induce refusals.

    Raises ValueError where there is none, with the nearest.
    """
    sound = [one for one in candidates if math.isfinite(one.ablated_score) and math.isfinite(one.kl)]
    gentle = [one for one in sound if one.kl <= max_kl]
    if not gentle:
        least = min((one.kl for one in sound), default=math.inf)
        raise ValueError(
            f"every one of {len(candidates)} directions changes harmless answers by more than max_kl={max_kl:g} nats "
            f"(the least: {least:.3g})"
        )
    able = [one for one in gentle if one.induced_score > 0]
    if not able:
        most = max(one.induced_score for one in gentle)
        raise ValueError(
            f"none of the {len(gentle)} directions within max_kl={max_kl:g} makes the model refuse harmless prompts "
            f"when it is added (best refusal score {most:.2f}, needed above 0): there is no direction to find"
        )
    return min(able, key=lambda one: (one.ablated_score, one.kl, one.layer, -one.position))
