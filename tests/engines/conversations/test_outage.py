"""A request that is lost alone is told from a server that is away, without a server."""

from __future__ import annotations

import asyncio

import pytest

from cai_ray.engines.conversations.outage import Outage
from cai_ray.errors import EngineGaveUp


class Server:
    """Fails from its `fails_from`-th request on, until its `back_at`-th."""

    def __init__(self, fails_from: int, back_at: int = 10**9) -> None:
        self.num_asked, self.fails_from, self.back_at = 0, fails_from, back_at

    async def send(self) -> str:
        self.num_asked += 1
        if self.fails_from <= self.num_asked < self.back_at:
            raise ConnectionError("refused")
        return "yes"


def outage() -> Outage:
    return Outage("http://a/v1", pauses_s=(0.001,) * 3, limit_s=0.05)


def test_a_server_that_answers_another_has_lost_one_row() -> None:
    server, known = Server(10**9), outage()
    known.answered(server.send)
    assert asyncio.run(known.is_lost_alone(server.send, "500"))


def test_a_server_that_comes_back_is_asked_again_and_all_wait_together() -> None:
    server, known = Server(fails_from=1, back_at=3), outage()
    known.answered(server.send)

    async def both() -> list[bool]:
        return await asyncio.gather(known.is_lost_alone(server.send, "500"), known.is_lost_alone(server.send, "500"))

    assert asyncio.run(both()) == [False, False]
    assert server.num_asked == 3


@pytest.mark.parametrize(("has_answered", "told"), [(True, "answers no request"), (False, "has answered no request")])
def test_a_server_that_stays_away_is_given_up_for_good(has_answered: bool, told: str) -> None:
    server, known = Server(fails_from=1), outage()
    if has_answered:
        known.answered(server.send)
    for _ in range(2):
        with pytest.raises(EngineGaveUp, match=told):
            asyncio.run(known.is_lost_alone(server.send, "status 503: down"))
    assert server.num_asked == 3 + has_answered


def test_a_server_that_hangs_is_away() -> None:
    known = outage()

    async def hangs() -> None:
        await asyncio.sleep(3600)

    known.answered(hangs)
    with pytest.raises(EngineGaveUp, match="did not come back"):
        asyncio.run(known.is_lost_alone(hangs, "timeout"))
