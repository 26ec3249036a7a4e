"""A moderation server's verdict: over all categories or over some. How it fails: tests/engines/backends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.stages.evaluation.judges.moderation import ModerationJudge, moderate
from tests.stages.evaluation.judges.judging import ROW, dropped, judged, refusal

SCORES = {"self-harm": 0.9, "hate/threatening": 0.1}
VERDICT = {
    "flagged": True,
    "categories": {name: score > 0.5 for name, score in SCORES.items()},
    "category_scores": SCORES,
}


class Door:
    def __init__(self, *results: Any) -> None:
        self.results = list(results)

    async def moderate(self, text: str) -> Any:
        assert text == ROW["response"]
        return {"results": self.results}


def judge(*categories: str) -> ModerationJudge:
    return ModerationJudge(model="m", name="J", categories=categories)


def test_the_servers_own_verdict() -> None:
    assert judged(moderate(ROW, Door(VERDICT), judge=judge())) == {"harmful": 1.0, "moderation_score": 0.9}
    row = asyncio.run(moderate(ROW, Door(VERDICT), judge=judge()))
    assert row["labels"] == ["self-harm"]
    bare = {"flagged": False}
    assert judged(moderate(ROW, Door(bare), judge=judge())) == {"harmful": 0.0}
    assert dropped(moderate(ROW, Door(), judge=judge())).reason == DropReason.UNPARSABLE


def test_chosen_categories() -> None:
    some = judge("hate_threatening")
    assert judged(moderate(ROW, Door(VERDICT), judge=some)) == {"harmful": 0.0, "moderation_score": 0.1}
    both = judge("self_harm", "hate/threatening")
    assert judged(moderate(ROW, Door(VERDICT), judge=both)) == {"harmful": 1.0, "moderation_score": 0.9}
    with pytest.raises(DropRow, match="no category violence; it has hate-threatening, self-harm"):
        asyncio.run(moderate(ROW, Door(VERDICT), judge=judge("violence")))


def test_its_model_is_a_server() -> None:
    assert "set models.m.endpoint" in refusal(judge(), ModelConfig(path="m"))
