"""A finished `label_comparisons` in the micro world's language, as training stages read it, without a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.microworld.language import answer, sample_request
from cai_ray.row_ids import PAIR_IDS, pair_id_of, prompt_id_of
from cai_ray.rows import PREFERENCE
from cai_ray.stages.context import Context
from tests.finished_stages import finished, spec_of

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
    finished(spec_of(run / STAGE, STAGE, PAIR_IDS, "labels"), PREFERENCE, rows)
    return Context(
        run=run,
        seed=3,
        models={"policy": ModelConfig(path=str(model))},
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={STAGE: "labels", stage: f"{stage}-fingerprint"},
    )
