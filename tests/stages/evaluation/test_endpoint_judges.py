"""Judges behind an OpenAI-compatible server: a real HTTP server that replies, stalls and babbles as servers do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cai_ray.config import EndpointConfig, ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.conversations.asking import Ask
from cai_ray.stages.evaluation.judges.asking import answer_yes_no, guard, rate
from cai_ray.stages.evaluation.judges.named import GuardJudge, PairwiseJudge, RatingJudge, YesNoJudge
from cai_ray.stages.evaluation.matches import play
from tests.engines.backends.test_endpoint import Canned, Server, chat, chat_logprobs, error, server
from tests.stages.evaluation.judges.test_asking import ROW
from tests.stages.evaluation.test_matches import ROW as MATCH

__all__ = ["server"]
Judging = Callable[[Ask], Awaitable[dict[str, Any]]]


def judge(server: Server, judging: Judging, timeout_s: float = 5.0) -> dict[str, Any]:
    endpoint = EndpointConfig(base_url=server.url, model="m", max_retries=2, timeout_s=timeout_s)

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> dict[str, Any]:
        backend = EndpointBackend(ModelConfig(endpoint=endpoint))
        await backend.start()
        try:
            return await judging(backend.open("row", lambda k: k, pass_on))
        finally:
            await backend.close()

    return asyncio.run(main())


def rated(ask: Ask) -> Awaitable[dict[str, Any]]:
    return rate(ROW, ask, judge=RatingJudge(model="m"), seed=0)


def values(row: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in row["scores"]}


def test_a_rating_after_a_rate_limit(server: Server) -> None:
    server.replies = [
        error(429, "Rate limit reached"),
        chat('Sure.\n```json\n{"reason": "Of some use.", "harmfulness": 4, "helpfulness": 2}\n```'),
    ]
    row = judge(server, rated)
    assert values(row) == {"harmfulness_score": 4.0, "helpfulness_score": 2.0} and "Of some use." in row["reply"]
    (_, body, _) = server.requests[-1]
    assert body["temperature"] == 0 and "seed" not in body and [m["role"] for m in body["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (chat("I cannot judge that."), DropReason.UNPARSABLE),
        (chat(None), DropReason.UNPARSABLE),
        (chat('{"reason": "It', finish_reason="length"), DropReason.UNPARSABLE),
        (chat("", finish_reason="content_filter"), DropReason.REQUEST_REJECTED),
        (error(429, "Rate limit reached"), DropReason.ENDPOINT_ERROR),
        (error(400, "maximum context length is 8192 tokens"), DropReason.TOO_LONG),
        pytest.param(Canned({}, delay_s=1.0), DropReason.ENDPOINT_ERROR, marks=pytest.mark.slow),
        (Canned(b"<html>Welcome</html>", content_type="text/html"), DropReason.ENDPOINT_ERROR),
        (Canned({"choices": []}), DropReason.ENDPOINT_ERROR),
    ],
)
def test_a_judge_that_fails_is_one_judgement_less(server: Server, reply: Canned, reason: DropReason) -> None:
    server.replies = [reply]
    with pytest.raises(DropRow) as caught:
        judge(server, rated, timeout_s=0.3)
    assert caught.value.reason == reason


def test_a_guard_is_sent_the_chat_with_its_answer_and_asked_for_a_turn_of_its_own(server: Server) -> None:
    server.replies = [chat("\n\nunsafe\nS2")]
    row = judge(server, lambda ask: guard(ROW, ask, judge=GuardJudge(model="m")))
    assert values(row) == {"harmful": 1.0} and row["labels"] == ["S2"]
    (_, body, _) = server.requests[0]
    assert body["messages"] == [*ROW["messages"], {"role": "assistant", "content": ROW["response"]}]
    assert "continue_final_message" not in body and "add_generation_prompt" not in body


def test_yes_or_no_as_one_token(server: Server) -> None:
    server.replies = [chat("Yes")]
    row = judge(
        server,
        lambda ask: answer_yes_no(ROW, ask, judge=YesNoJudge(model="m"), template="{behavior}{generation}", seed=0),
    )
    assert values(row) == {"harmful": 1.0} and server.requests[0][1]["max_tokens"] == 1


def test_verdicts_by_log_probabilities_in_both_orders(server: Server) -> None:
    server.replies = [
        chat("B", logprobs=chat_logprobs(B=-0.1, A=-2.1)),
        chat("A", logprobs=chat_logprobs(A=-0.1, B=-2.1)),
    ]
    row = judge(server, lambda ask: play(MATCH, ask, judge=PairwiseJudge(model="m"), form="chat", seed=0))
    assert row["prob_a"] == pytest.approx(1 / (1 + 2.718281828459045**2)) and not row["flipped"]
    server.replies = [chat("A", logprobs=None)]
    with pytest.raises(DropRow) as caught:
        judge(server, lambda ask: play(MATCH, ask, judge=PairwiseJudge(model="m"), form="chat", seed=0))
    assert caught.value.reason == DropReason.NO_LOGPROBS
