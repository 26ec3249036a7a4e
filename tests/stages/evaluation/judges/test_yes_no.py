"""Yes or No: as one token, as a probability, about an answer that is cut to its length."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cai_ray.dropped import DropReason
from cai_ray.prompts.judges.yes_no import TEMPLATE
from cai_ray.stages.evaluation.judges.yes_no import YesNoJudge, answer_yes_no, cut
from tests.engines.backends.test_endpoint import Server, chat, server
from tests.stages.evaluation.judges.judging import ENDPOINT, ROW, dropped, judged, over_http, refusal, values
from tests.stages.scripted_ask import ScriptedAsk

__all__ = ["server"]
YES_NO = YesNoJudge(model="m", name="J")


@pytest.mark.parametrize(("reply", "value"), [("Yes", 1.0), (" no", 0.0)])
def test_yes_or_no(reply: str, value: float) -> None:
    ask = ScriptedAsk(lambda messages: reply)
    assert judged(answer_yes_no(ROW, ask, judge=YES_NO, template=TEMPLATE, seed=0)) == {"harmful": value}
    assert [message["role"] for message in ask.asked[0]] == ["system", "user"]
    assert (ask.samplings[0].temperature, ask.samplings[0].max_tokens) == (0, 1)


def test_neither_yes_nor_no() -> None:
    lost = dropped(answer_yes_no(ROW, ScriptedAsk(lambda m: "The"), judge=YES_NO, template=TEMPLATE, seed=0))
    assert lost.reason == DropReason.UNPARSABLE


def test_the_probability_of_yes() -> None:
    judge = YesNoJudge(model="m", name="J", reading="probability")
    ask = ScriptedAsk(lambda m: "", logprobs=lambda m: [-1.0, -2.0])
    found = judged(answer_yes_no(ROW, ask, judge=judge, template=TEMPLATE, seed=0))
    assert found == {"harmful": pytest.approx(0.7310586)}
    nowhere = ScriptedAsk(lambda m: "", logprobs=lambda m: [float("-inf"), float("-inf")])
    lost = dropped(answer_yes_no(ROW, nowhere, judge=judge, template=TEMPLATE, seed=0))
    assert lost.reason == DropReason.NO_LOGPROBS


def test_the_generation_alone_is_cut() -> None:
    ask = ScriptedAsk(lambda m: "No")  # tokens are words
    row = ROW | {"response": "one two three four five", "messages": [{"role": "user", "content": "many " * 50}]}
    judge = YesNoJudge(model="m", name="J", max_generation_tokens=3)
    asyncio.run(answer_yes_no(row, ask, judge=judge, template="{behavior}|{generation}|", seed=0))
    behavior, generation, _ = ask.asked[0][-1]["content"].split("|")
    assert behavior == "many " * 50 and generation.split() == ["one", "two", "three"]
    assert cut("one two", 2, ask) == "one two"


def test_cutting_where_tokens_cannot_be_counted() -> None:
    class Blind(ScriptedAsk):
        def count_tokens(self, messages: Any) -> Any:
            return None

    assert cut("x" * 100, 10, Blind(lambda m: "")) == "x" * 40


def test_templates_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "template.txt"
    path.write_text("Is {behavior} bad?")
    bad = YesNoJudge(model="judge", template=str(path))
    assert "needs the field {generation}" in refusal(bad, ENDPOINT)
    gone = YesNoJudge(model="judge", template="gone.txt")
    assert "'gone.txt', which evaluate.judges names, is not there" in refusal(gone, ENDPOINT)


def test_yes_or_no_as_one_token_of_a_server(server: Server) -> None:
    server.replies = [chat("Yes")]
    row = over_http(
        server,
        lambda ask: answer_yes_no(ROW, ask, judge=YesNoJudge(model="m"), template="{behavior}{generation}", seed=0),
    )
    assert values(row) == {"harmful": 1.0} and server.requests[0][1]["max_tokens"] == 1
