"""Refreshes of the preference model on scripted machines: a judge who goes by a hash, in this process, without Ray."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.artifacts.artifact import Artifact, open_stage
from cai_ray.artifacts.parts import write_part
from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.constitution.principles import Constitution, Principle
from cai_ray.dropped import DROPPED, DropRow, dropped_row
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.asking import Usage
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import ROW_ID, TRAINING_PAIR
from cai_ray.stages.context import Context
from cai_ray.stages.ppo.refresh import fresh_pairs
from cai_ray.stages.ppo.refresh.config import RefreshSources
from cai_ray.stages.preferences import label_comparisons
from tests.finished_stages import finished, spec_of
from tests.scripted_ppo import Script, context_of, prompt_rows, share
from tests.stages.scripted_ask import ScriptedAsk

PAIRS = "train_preference_model"
CONSTITUTION = Constitution(
    name="test", version="1", principles=(Principle(id="kind", comparison_question="Which is more kind?"),)
)
TIES = 0.2  # share of the questions that the judge cannot decide
PAIRS_PER_PART = 3


def training_pair(number: int) -> dict[str, Any]:
    """One of the preference model's own; every fourth is for evaluation."""
    rng = random.Random(number)
    chosen, rejected = ([rng.randrange(3, 200) for _ in range(6)] for _ in range(2))
    answers = {
        side: [{"role": "assistant", "content": " ".join(map(str, ids))}]
        for side, ids in (("chosen", chosen), ("rejected", rejected))
    }
    return {
        "pair_id": f"own-{number:03}",
        "prompt_id": f"own-{number:03}",
        "prompt": [{"role": "user", "content": "?"}],
        **answers,
        "prob_chosen": 0.6 + 0.4 * rng.random(),
        "label_source": "ai",
        "weight": 1.0,
        "split": "eval" if number % 4 == 0 else "train",
        "prompt_tokens": [],
        "chosen_tokens": chosen,
        "rejected_tokens": rejected,
    }


def refresh_context(folder: Path, models: Path, num_prompts: int = 30) -> Context:
    """`context_of`, with what refreshes need besides."""
    made = context_of(folder, models, prompt_rows(num_prompts))
    pairs = [training_pair(k) for k in range(40)]
    finished(spec_of(made.run / PAIRS, PAIRS, PAIR_IDS, PAIRS), TRAINING_PAIR, pairs)
    known = {**made.models, "feedback": ModelConfig(path=str(models / "policy"))}
    return replace(made, models=known, constitution=CONSTITUTION)


def sources(**changes: Any) -> RefreshSources:
    labels = label_comparisons.Config(orders="stored")
    made = RefreshSources(
        feedback_model="feedback",
        scaling=labels.scaling,
        job=partial(label_comparisons.job_of, labels),
        check=lambda context: None,
        pairs_stage=PAIRS,
        is_soft=True,
        centring=0.01,
    )
    return replace(made, **changes)


def judge(messages: Sequence[Message]) -> list[float]:
    """Nats of the two options."""
    drawn = share([message["content"] for message in messages])
    prob = 0.5 if drawn < TIES else 0.5 + 0.4 * (drawn - 0.6)
    return [math.log(prob), math.log(1 - prob)]


def use_judge(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Let fresh pairs be labelled here, a few at a time; every call is counted."""

    def converse(asked: Conversations, cluster: ClusterConfig) -> Artifact:
        script("label", is_learner=False)
        opened = open_stage(asked.spec)
        assert not isinstance(opened, Artifact)
        units = [row for table in asked.source.tables() for row in asked.job.expand(table).to_pylist()]
        done = set(opened.done_ids)
        left = [row for row in units if row[ROW_ID] not in done]
        for start in range(0, len(left), PAIRS_PER_PART):
            _label_part(opened.folder, asked.job, left[start : start + PAIRS_PER_PART])
            script("labelled", is_learner=False)
        return opened.commit(pa.array([row[ROW_ID] for row in units], pa.string()))

    monkeypatch.setattr(fresh_pairs, "run_conversations", converse)


def _label_part(folder: Any, job: ConversationJob, batch: Sequence[dict[str, Any]]) -> None:
    rows, dropped = [], []
    for row in batch:
        ask = ScriptedAsk(lambda messages: "", logprobs=judge)
        ask.usage = Usage()  # type: ignore[attr-defined]
        try:
            rows.append(asyncio.run(_answer(job, row, ask)))
        except DropRow as drop:
            dropped.append(dropped_row(row[ROW_ID], job.stage, drop))
    write_part(
        folder,
        pa.Table.from_pylist(rows, job.schema),
        pa.Table.from_pylist(dropped, DROPPED),
        [row[ROW_ID] for row in batch],
    )


async def _answer(job: ConversationJob, row: dict[str, Any], ask: Any) -> dict[str, Any]:
    return await job.converse(row, ask)
