"""Directions: one per layer and position, from the activations of refused and answered prompts, tried and chosen.

Probed -> Look (what the model does, and its activations) -> Direction -> Trial. Each is an artifact that a killed run
goes on from.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cai_ray.algorithms.directions import (
    Candidate,
    Sums,
    candidate_layers,
    chosen,
    difference_of_means,
    kl,
    merged,
    refusal_score,
    unit,
)
from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, derive
from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.in_process.probe import AS_IS, ProbeConversation
from cai_ray.engines.models.residual.intervention import Intervention
from cai_ray.errors import ConfigError
from cai_ray.metrics.refusals import read
from cai_ray.row_ids import RESPONSES_IDS, SHOT_IDS
from cai_ray.rows import ROW_ID
from cai_ray.stages.abliteration.config import HARMFUL, HARMLESS, Config
from cai_ray.stages.abliteration.probing import Probing
from cai_ray.stages.abliteration.prompts import only_part, prompts_of

LOOKS, DIRECTIONS, TRIALS = "looks", "directions", "trials"  # folders inside the stage's own
# What the model does with one training prompt.
LOOK = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),  # "harmful" | "harmless"
        pa.field("response", pa.string(), nullable=False),  # greedy
        pa.field("refused", pa.bool_(), nullable=False),  # by its phrases (metrics/refusals.py)
        pa.field("first_token", pa.int32(), nullable=False),
        pa.field("residuals", pa.binary(), nullable=False),  # float32 [num_layers tried, num_positions, d]
    ]
)
# One direction to try.
DIRECTION = pa.schema(
    [
        pa.field(ROW_ID, pa.string(), nullable=False),  # "<layer>/<position>"
        pa.field("layer", pa.int32(), nullable=False),  # whose input, >= 1
        pa.field("position", pa.int32(), nullable=False),  # -1: the last token of the prompt
        pa.field("difference", pa.list_(pa.float64()), nullable=False),  # [d], of the means
    ]
)
# How it did on the validation prompts; see algorithms.directions.Candidate.
TRIAL = pa.schema(
    [
        pa.field(ROW_ID, pa.string(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("layer", "position")),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("ablated_score", "induced_score", "kl")),
    ]
)


@dataclass(frozen=True)
class Found:
    """The direction that was chosen.

    Attributes:
        difference: of the means at its place, float64 [d].
        refusal_ids: tokens that begin a refusal.
    """

    candidate: Candidate
    difference: np.ndarray
    refusal_ids: tuple[int, ...]
    num_refused: int
    num_harmful: int

    @property
    def ablation(self) -> np.ndarray:
        """Of length 1, float64 [d]."""
        return unit(self.difference)


# --- Looking ----------------------------------------------------------------------------------------------


async def look(
    row: dict[str, Any], ask: ProbeConversation, *, layers: Sequence[int], config: Config, positions: int
) -> Any:
    """A row of the LOOK schema. Raises DropRow."""
    text, ids = await ask.answer(row["messages"], AS_IS, config.max_tokens)
    if not ids:
        raise DropRow(DropReason.EMPTY_RESPONSE, "the model answers nothing")
    residuals = (await ask.residuals(row["messages"], positions))[list(layers)]
    if not np.isfinite(residuals).all():
        raise DropRow(DropReason.UNPARSABLE, "the activations are not all numbers")
    return {
        "prompt_id": row["prompt_id"],
        "side": row["side"],
        "response": text,
        "refused": read(text).refusal,
        "first_token": ids[0],
        "residuals": residuals.astype(np.float32).tobytes(),
    }


def refusal_tokens(looks: Sequence[tuple[int, bool]]) -> tuple[int, ...]:
    """Tokens that begin refusals more often than answers, of (first token, whether it was a refusal), as shares."""
    refusals, answers = (Counter(token for token, refused in looks if refused is wanted) for wanted in (True, False))
    num_refusals, num_answers = max(1, refusals.total()), max(1, answers.total())
    return tuple(sorted(t for t, num in refusals.items() if num / num_refusals > answers[t] / num_answers))


# --- Trying -----------------------------------------------------------------------------------------------


async def attempt(
    row: dict[str, Any],
    ask: ProbeConversation,
    *,
    harmful: Sequence[Sequence[Message]],
    harmless: Sequence[Sequence[Message]],
    refusal_ids: Sequence[int],
    config: Config,
) -> dict[str, Any]:
    """A row of the TRIAL schema: three readings of the validation prompts. Raises DropRow."""
    difference = np.array(row["difference"])
    name, layer = row[ROW_ID], row["layer"]
    ask.offer(f"without {name}", Intervention("project", unit(difference).astype(np.float32), 0, config.embeddings))
    ask.offer(f"with {name}", Intervention("add", (config.reverse_strength * difference).astype(np.float32), layer))

    async def first(prompts: Sequence[Sequence[Message]], change: str) -> list[np.ndarray]:
        return await asyncio.gather(*(ask.first_logprobs(messages, change) for messages in prompts))

    def mean_score(logprobs: Sequence[np.ndarray]) -> float:
        return float(np.mean([refusal_score(one, refusal_ids) for one in logprobs]))

    without_it = await first(harmless, f"without {name}")
    as_is = await first(harmless, AS_IS)
    return {
        **{column: row[column] for column in (ROW_ID, "layer", "position")},
        "ablated_score": mean_score(await first(harmful, f"without {name}")),
        "induced_score": mean_score(await first(harmless, f"with {name}")),
        "kl": float(np.mean([kl(a, b) for a, b in zip(as_is, without_it, strict=True)])),
    }


# --- The search -------------------------------------------------------------------------------------------


def find_direction(config: Config, probed: Artifact, probing: Probing) -> Found:
    """The direction of refusal. Raises ConfigError for a model that has none to find."""
    layers = candidate_layers(probing.num_layers, config.layer_step)
    if not layers:
        raise ConfigError(
            f"the model {config.model!r} has {probing.num_layers} layer; a direction is sought between two"
        )
    looks = probing.ask(
        LOOKS,
        RESPONSES_IDS,
        LOOK,
        probed,
        partial(look, layers=layers, config=config, positions=probing.num_positions),
        partial(only_part, part="train"),
        ("prompt_id", "part"),
    )
    said = [(row["side"], row["first_token"], row["refused"]) for row in looks.rows(["side", "first_token", "refused"])]
    refusal_ids = refusal_tokens([(token, refused) for _, token, refused in said])
    num_harmful = sum(side == HARMFUL for side, _, _ in said)
    num_refused = sum(side == HARMFUL and refused for side, _, refused in said)
    _check_sides(config, num_refused, num_harmful, sum(side == HARMLESS and not r for side, _, r in said), refusal_ids)
    directions = derive(
        probing.spec.inner(DIRECTIONS, SHOT_IDS, looks), [_differences(looks, layers, probing)], DIRECTION
    )
    trials = probing.ask(
        TRIALS,
        SHOT_IDS,
        TRIAL,
        directions,
        partial(
            attempt,
            harmful=prompts_of(probed, HARMFUL, "validation"),
            harmless=prompts_of(probed, HARMLESS, "validation"),
            refusal_ids=refusal_ids,
            config=config,
        ),
        _as_units,
        (ROW_ID,),
    )
    found = {row[ROW_ID]: Candidate(**{k: row[k] for k in TRIAL.names if k != ROW_ID}) for row in trials.rows()}
    try:
        best = chosen(list(found.values()), config.max_kl)
    except ValueError as error:
        raise ConfigError(
            f"abliterate finds no direction of refusal in model {config.model!r}: {error}; raise abliterate.max_kl, or "
            "leave this model as it is"
        ) from error
    (difference,) = (row["difference"] for row in directions.rows() if row[ROW_ID] == f"{best.layer}/{best.position}")
    return Found(best, np.array(difference), refusal_ids, num_refused, num_harmful)


def _check_sides(config: Config, num_refused: int, num_harmful: int, num_answered: int, ids: Sequence[int]) -> None:
    if num_refused < config.min_prompts or not ids:
        raise ConfigError(
            f"model {config.model!r} refuses {num_refused} of {num_harmful} harmful prompts, fewer than "
            f"abliterate.min_prompts={config.min_prompts}: it has no direction of refusal to find, and needs none "
            "taken out; add harmful prompts that it refuses, or leave it as it is"
        )
    if num_answered < config.min_prompts:
        raise ConfigError(
            f"model {config.model!r} answers {num_answered} harmless prompts without refusing, fewer than "
            f"abliterate.min_prompts={config.min_prompts}; add harmless prompts (kind: helpful)"
        )


def _differences(looks: Artifact, layers: Sequence[int], probing: Probing) -> list[Outcome]:
    """A direction per layer and position. Prompts that the model treats as the other class are no part of a mean."""
    shape = (1, len(layers), probing.num_positions, -1)
    harmful, harmless = (merged(_sums(looks, side, shape)) for side in (HARMFUL, HARMLESS))
    means = difference_of_means(harmful, harmless)
    made = []
    for k, layer in enumerate(layers):
        for position in range(-probing.num_positions, 0):
            row_id, difference = f"{layer}/{position}", means[k, position]
            row = {ROW_ID: row_id, "layer": layer, "position": position, "difference": difference.tolist()}
            nothing = DropRow(DropReason.IDENTICAL, "both classes have the same mean there")
            made.append(Outcome(row_id, row if np.any(difference) else nothing))
    return made


def _sums(looks: Artifact, side: str, shape: tuple[int, ...]) -> Iterator[Sums]:
    for row in looks.rows(["side", "refused", "residuals"]):
        if row["side"] == side and row["refused"] == (side == HARMFUL):
            yield Sums.of(np.frombuffer(row["residuals"], np.float32).reshape(shape))


def _as_units(rows: pa.Table) -> pa.Table:
    return rows
