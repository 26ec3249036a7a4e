"""The answers that a run keeps: which they are, as rows, and their ids.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.row_ids import rollout_row_id
from cai_ray.rows import ROLLOUT
from cai_ray.stages.ppo.turns import Turns


def kept_ids(turns: Turns, steps: Iterable[int], num: int) -> list[str]:
    """The rows that these steps leave, `num` each at most, in order; known before anything is sampled."""
    found = []
    for step in steps:
        wanted = turns.wanted(step)
        found += [rollout_row_id(step, *wanted[position]) for position in turns.kept(step, num)]
    return found


def rollout_rows(
    turns: Turns, step: int, episodes: Sequence[Episode], scored: Sequence[Scored], kl: Sequence[float]
) -> pa.Table:
    """Rows of the schema ROLLOUT. `kl`: [num_episodes], nats per answer."""
    rows = [
        {
            "step": step,
            "prompt_id": episode.prompt_id,
            "sample_index": episode.sample_index,
            "messages": turns.prompt(episode.prompt_id).messages,
            "response": episode.text,
            "score": _finite(one.score),
            "kl": _finite(distance),
            "num_tokens": len(episode.response_ids),
            "truncated": episode.truncated,
            "policy_version": episode.policy_version,
        }
        for episode, one, distance in zip(episodes, scored, kl, strict=True)
    ]
    return pa.Table.from_pylist(rows, ROLLOUT)


def shown_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows of the schema ROLLOUT as a table for people: the last turn of the prompt, the answer, its figures."""
    plain = rows.select(["response", "score", "kl", "num_tokens", "truncated"]).to_pylist()
    asked = (messages[-1]["content"] for messages in rows["messages"].to_pylist())
    return [{"prompt": prompt, **row} for prompt, row in zip(asked, plain, strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
