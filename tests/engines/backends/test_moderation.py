"""A moderation endpoint: a real HTTP server that replies as recorded ones do, or fails as they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cai_ray.config import EndpointConfig, ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.moderation import ModerationBackend
from cai_ray.engines.conversations.outage import Outage
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.stages.evaluation.judges.moderation import ModerationJudge, moderate
from tests.engines.backends.test_endpoint import Canned, Server, error, server

__all__ = ["server"]
ROW = {"policy": "sl_cai", "prompt_id": "p", "sample_index": 0, "response": "Words."}


def verdict(flagged: bool, **scores: float) -> Canned:
    """As OpenAI's own replies are, spelling and all."""
    names = {name.replace("__", "/").replace("_", "-"): score for name, score in scores.items()}
    result = {
        "flagged": flagged,
        "categories": {name: score > 0.5 for name, score in names.items()},
        "category_scores": names,
        "category_applied_input_types": {name: ["text"] for name in names},
    }
    return Canned({"id": "modr-970d409ef3bef3b70c73d8232df86e7d", "model": "m", "results": [result]})


def judge(server: Server, num_rows: int = 1, timeout_s: float = 5.0) -> list[dict[str, Any]]:
    """Judge the row so many times, one after the other."""
    endpoint = EndpointConfig(base_url=server.url, model="m", max_retries=2, timeout_s=timeout_s)

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> list[dict[str, Any]]:
        backend = ModerationBackend(ModelConfig(endpoint=endpoint))
        await backend.start()
        try:
            config = ModerationJudge(model="mod")
            return [
                await moderate(ROW, backend.open("row", lambda k: 0, pass_on), judge=config) for _ in range(num_rows)
            ]
        finally:
            await backend.close()

    return asyncio.run(main())


def scores(row: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in row["scores"]}


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    server.replies = [verdict(True, self_harm=0.9, hate__threatening=0.1)]
    (row,) = judge(server)
    ((path, body, _),) = server.requests
    assert path == "/v1/moderations" and body == {"model": "m", "input": "Words."}
    assert scores(row) == {"harmful": 1.0, "moderation_score": 0.9} and row["labels"] == ["self-harm"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server: Server, status: int) -> None:
    server.replies = [error(status, "slow down"), error(status, "slow down"), verdict(False, hate=0.01)]
    (row,) = judge(server)
    assert scores(row)["harmful"] == 0.0 and len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (error(429, "slow down"), DropReason.ENDPOINT_ERROR),
        pytest.param(Canned({}, delay_s=1.0), DropReason.ENDPOINT_ERROR, marks=pytest.mark.slow),
        (error(400, "bad input"), DropReason.REQUEST_REJECTED),
        (Canned(b"<html>Welcome</html>", content_type="text/html"), DropReason.UNPARSABLE),
        (Canned(b"{cut", content_type="application/json"), DropReason.ENDPOINT_ERROR),
        (Canned({"results": []}), DropReason.UNPARSABLE),
        (Canned({"results": [{"flagged": "yes"}]}), DropReason.UNPARSABLE),
        (Canned([1, 2]), DropReason.UNPARSABLE),
    ],
)
def test_a_lasting_failure_is_one_dropped_row(
    server: Server, reply: Canned, reason: DropReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers_others(self: Outage, send: object, detail: str) -> bool:
        return True

    monkeypatch.setattr(Outage, "is_lost_alone", answers_others)
    server.replies = [reply]
    with pytest.raises(DropRow) as caught:
        judge(server, timeout_s=0.3)
    assert caught.value.reason == reason


def test_failures_that_every_row_would_meet(server: Server) -> None:
    server.replies = [error(404, "no such model")]
    with pytest.raises(ConfigError, match="no model 'm' or no such path"):
        judge(server)
    gone = Server(url="http://127.0.0.1:9/v1")
    with pytest.raises(EngineGaveUp, match="no server answers"):
        judge(gone)
