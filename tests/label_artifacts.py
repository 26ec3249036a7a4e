"""A finished `label_comparisons` in the micro world's language, as training stages read it, without a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig
from cai_ray.dropped import DROPPED
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.microworld.language import answer, sample_request
from cai_ray.rows import PREFERENCE, pair_id_of, prompt_id_of
from cai_ray.stages.context import Context
from cai_ray.stages.pair_files import pair_ids

STAGE = "label_comparisons"


def label(number: int, seed: int = 0) -> dict[str, Any]:
    """A Preference row: to a harmful request a refusal beats compliance, with a probability in [0.6, 1)."""
    rng = random.Random(f"{seed}/{number}")
    request = sample_request(rng, harmful=True, split="test" if number % 4 == 0 else "train")
    messages = list(request.messages)
    prompt_id = prompt_id_of(messages, "labels")
    return {
        "pair_id": pair_id_of(f"{prompt_id}-{number}", 0, 1),
        "prompt_id": prompt_id,
        "messages": messages,
        "kind": "red_team",
        "category": request.category,
        "split": "test" if number % 4 == 0 else "train",
        "chosen": answer(rng, request.task, "refuse"),
        "rejected": answer(rng, request.task, "comply"),
        "chosen_is_a": rng.random() < 0.5,
        "prob_chosen": 0.6 + 0.4 * rng.random(),
        "order_flip_rate": 0.0,
        "label_source": "ai",
        "comparisons": [],
        "num_prompt_tokens": 0,
        "num_cached_tokens": 0,
        "num_output_tokens": 0,
    }


def context(folder: Any, model: Any, stage: str, rows: Sequence[dict[str, Any]]) -> Context:
    """A run in `folder` whose labels are `rows` and whose next stage is `stage`; the model `policy` is `model`."""
    run = Storage(str(folder))
    opened = open_stage(run / STAGE, STAGE, "labels", {}, {}, pair_ids, ("pair_id",))
    if not isinstance(opened, Artifact):
        _commit(opened, rows)
    return Context(
        run=run,
        seed=3,
        models={"policy": ModelConfig(path=str(model))},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={STAGE: "labels", stage: f"{stage}-fingerprint"},
    )


def _commit(opened: OpenStage, rows: Sequence[dict[str, Any]]) -> None:
    ids = [row["pair_id"] for row in rows]
    write_part(opened.folder, pa.Table.from_pylist(list(rows), PREFERENCE), DROPPED.empty_table(), ids)
    opened.commit(pa.array(ids, pa.string()))
